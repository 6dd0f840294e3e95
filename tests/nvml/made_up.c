/* NVML without a GPU, for nvidia-ml-py itself: one GPU whose condition the functions made_... set, and maybe a second
 * one, which is well. Numbers and layouts are those of nvml.h.
 */
#include <pthread.h>
#include <string.h>
#include <time.h>

typedef struct { int nothing; } *device_t;
typedef struct { device_t device; unsigned long long kind, data; unsigned gpu_instance, compute_instance; } event_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct {
    unsigned field, scope;
    long long timestamp, latency_us;
    int kind, status;
    union { double d; unsigned ui; unsigned long ul; unsigned long long ull; } value;
} field_t;
enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TIMED_OUT = 10, IS_LOST = 15 };

static const char *UUIDS[] = {"GPU-00000000-0000-0000-0000-000000000001", "GPU-00000000-0000-0000-0000-000000000002"};
static int gpus[2], set, begun, lost, action, memory_is_shared;
static unsigned gpu_count = 1;
static unsigned long long registered, pending;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t happened = PTHREAD_COND_INITIALIZER;

void made_lost(int error) { lost = error; }
void made_count(unsigned count) { gpu_count = count; }
void made_shared_memory(int is_shared) { memory_is_shared = is_shared; }
void made_action(int asked) { action = asked; }
unsigned long long made_registered(void) { return registered; }
void made_xid(unsigned long long xid) {
    pthread_mutex_lock(&lock);
    pending = xid;
    pthread_cond_signal(&happened);
    pthread_mutex_unlock(&lock);
}

static unsigned index_of(device_t device) { return (unsigned)((int *)device - gpus); }
static int asked(device_t device) {
    return !begun ? UNINITIALIZED : index_of(device) >= gpu_count ? INVALID : index_of(device) == 0 ? lost : OK;
}

int nvmlInitWithFlags(unsigned flags) { begun++; return OK; }
int nvmlShutdown(void) { if (!begun) return UNINITIALIZED; begun--; return OK; }
const char *nvmlErrorString(int error) { return "made up"; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = gpu_count; return begun ? OK : UNINITIALIZED; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, device_t *device) {
    *device = (device_t)&gpus[index];
    return !begun ? UNINITIALIZED : index >= gpu_count ? INVALID : index == 0 && lost == IS_LOST ? IS_LOST : OK;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, device_t *device) {
    if (!begun) return UNINITIALIZED;
    if (lost == IS_LOST) return IS_LOST; /* "if any GPU has fallen off the bus or is otherwise inaccessible" */
    for (unsigned index = 0; index < gpu_count; index++)
        if (!strcmp(uuid, UUIDS[index])) return *device = (device_t)&gpus[index], OK;
    return NOT_FOUND;
}
int nvmlDeviceGetUUID(device_t device, char *uuid, unsigned length) {
    int status = asked(device);
    if (status == OK) strncpy(uuid, UUIDS[index_of(device)], length);
    return status;
}
int nvmlDeviceGetMaxMigDeviceCount(device_t device, unsigned *count) { *count = 0; return asked(device); }
int nvmlDeviceGetIndex(device_t device, unsigned *index) { *index = index_of(device); return asked(device); }
int nvmlDeviceGetTotalEnergyConsumption(device_t device, unsigned long long *mj) { *mj = 1500; return asked(device); }
int nvmlDeviceGetMemoryInfo(device_t device, memory_t *memory) {
    *memory = (memory_t){80, 77, 3};
    return memory_is_shared ? NOT_SUPPORTED : asked(device);
}
int nvmlDeviceGetClockInfo(device_t device, int kind, unsigned *mhz) {
    *mhz = kind == 1 ? 1410 : kind == 2 ? 1593 : 0;
    return asked(device);
}
int nvmlDeviceGetTemperature(device_t device, int sensor, unsigned *celsius) { *celsius = 45; return asked(device); }
int nvmlDeviceGetCurrentClocksEventReasons(device_t device, unsigned long long *reasons) {
    *reasons = 0x4 | 0x20;
    return asked(device);
}
int nvmlDeviceGetTotalEccErrors(device_t device, int kind, int since, unsigned long long *count) {
    *count = kind == 1 && since == 0 ? 7 : 1000;
    return asked(device);
}
int nvmlDeviceGetRemappedRows(device_t device, unsigned *corrected, unsigned *uncorrected, unsigned *waits, unsigned *failed) {
    *corrected = *uncorrected = 1, *waits = 1, *failed = 0;
    return asked(device);
}
int nvmlDeviceGetFieldValues(device_t device, int count, field_t *values) {
    values[0].status = count == 1 && values[0].field == 230 ? OK : NOT_SUPPORTED;
    values[0].kind = 1; /* NVML_VALUE_TYPE_UNSIGNED_INT */
    values[0].value.ui = (unsigned)action;
    return asked(device);
}
int nvmlDeviceGetSupportedEventTypes(device_t device, unsigned long long *kinds) { *kinds = 0x1f; return asked(device); }
int nvmlDeviceRegisterEvents(device_t device, unsigned long long kinds, void *events) {
    registered = events == &set ? kinds : 0;
    return asked(device);
}
int nvmlEventSetCreate(void **events) { *events = &set; return begun ? OK : UNINITIALIZED; }
int nvmlEventSetFree(void *events) { registered = 0; return begun ? OK : UNINITIALIZED; }
int nvmlEventSetWait_v2(void *events, event_t *event, unsigned timeout_ms) {
    int status = TIMED_OUT;
    struct timespec until;
    if (!begun || events != &set) return UNINITIALIZED;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += timeout_ms % 1000 * 1000000L;
    if (until.tv_nsec >= 1000000000L) until.tv_sec++, until.tv_nsec -= 1000000000L;
    pthread_mutex_lock(&lock);
    while (!pending && timeout_ms && pthread_cond_timedwait(&happened, &lock, &until) == 0)
        ;
    if (pending) {
        *event = (event_t){(device_t)&gpus[0], 0x8, pending, 0xffffffff, 0xffffffff};
        pending = 0, status = OK;
    }
    pthread_mutex_unlock(&lock);
    return status;
}
