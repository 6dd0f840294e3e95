// What a worker calls of CUDA's runtime, with memory of the host as that of the device. Copies of a stream are made at the
// last moment that CUDA allows, when it is waited for, or with MADE_UP_EARLY=1 at the first, so that what relies on more
// than CUDA promises shows as wrong data. MADE_UP_LOG names a file that gets a line for each copy. While the file that
// MADE_UP_LOST names is there, copies fail as they do on a GPU whose context is lost. With MADE_UP_UNPINNED=1 no memory is
// pinned. Streams with a priority are their priority, from 1 on, in units of 1024; the log has a line for each wait for one.
// As CUDA does, it keeps the last error of each thread until that is asked for.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COPIES_MAX 4096
#define ILLEGAL_ADDRESS 700
#define NOT_SUPPORTED 801
#define PRIORITY_UNIT 1024

struct copy { void *target; const void *source; size_t size; };
static struct copy copies[COPIES_MAX];
static int waiting;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int lost(void) {
  const char *file = getenv("MADE_UP_LOST");
  return file && access(file, F_OK) == 0;
}

static FILE *log_file;

// As it is loaded, as a worker that is confined may open no such file.
__attribute__((constructor)) static void open_log(void) {
  const char *name = getenv("MADE_UP_LOG");
  if (name) log_file = fopen(name, "a");
}

static void line(const char *what, size_t size) {
  if (!log_file) return;
  fprintf(log_file, "%s %zu\n", what, size);
  fflush(log_file);
}

static __thread int last_error;

static int result(int error) {
  if (error) last_error = error;
  return error;
}

int cudaGetLastError(void) {
  int error = last_error;
  last_error = 0;
  return error;
}

int cudaSetDevice(int device) { return result(device == 0 ? 0 : 101); }

int cudaHostRegister(void *address, size_t size, unsigned flags) {
  (void)address; (void)flags;
  if (getenv("MADE_UP_UNPINNED")) return result(NOT_SUPPORTED);
  line("pin", size);
  return 0;
}

int cudaStreamCreateWithFlags(void **stream, unsigned flags) {
  *stream = &copies;
  return result(flags == 1 ? 0 : 1);
}

int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  *least = 0;
  *greatest = -5;
  return 0;
}

int cudaStreamCreateWithPriority(void **stream, unsigned flags, int priority) {
  *stream = (void *)(intptr_t)(PRIORITY_UNIT * (1 - priority));
  return result(flags == 1 ? 0 : 1);
}

int cudaMemcpyAsync(void *target, const void *source, size_t size, int kind, void *stream) {
  if (stream != &copies || kind != 1) return result(1);
  if (lost()) return result(ILLEGAL_ADDRESS);
  pthread_mutex_lock(&lock);
  int full = waiting == COPIES_MAX;
  if (!full && getenv("MADE_UP_EARLY")) memcpy(target, source, size);
  else if (!full) copies[waiting++] = (struct copy){target, source, size};
  line("copy", size);
  pthread_mutex_unlock(&lock);
  return result(full);
}

int cudaStreamSynchronize(void *stream) {
  int priority = (intptr_t)stream > 0 && (intptr_t)stream <= 6 * PRIORITY_UNIT;
  if (stream != &copies && !priority) return result(1);
  if (lost()) return result(ILLEGAL_ADDRESS);
  if (priority) line("wait", (size_t)stream);
  pthread_mutex_lock(&lock);
  for (int nth = 0; nth < waiting; nth++) memcpy(copies[nth].target, copies[nth].source, copies[nth].size);
  waiting = 0;
  pthread_mutex_unlock(&lock);
  return 0;
}

const char *cudaGetErrorName(int error) { return error == ILLEGAL_ADDRESS ? "cudaErrorIllegalAddress" : "cudaErrorUnknown"; }
