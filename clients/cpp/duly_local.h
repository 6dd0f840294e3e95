/* Streams to a duly server on the same machine, through shared memory: for drivers that put frames where they are read.
 *
 * One header, C11 or C++17, Linux, no library. docs/local.md explains the messages and the memory. A stream is used by
 * one thread at a time. Functions return 0 or -1 with errno set, unless they say otherwise; EPROTO: the server sent
 * what makes no sense; ECONNRESET: it ended the stream, and duly_local_end_text says why.
 *
 *     struct duly_local stream;
 *     uint8_t open[256];
 *     size_t bytes = duly_local_open_stream(open, sizeof open, "yolo", 0, 100 * 1000000);
 *     duly_local_open(&stream, "/run/duly-cameras.sock", open, bytes, NULL, 0);
 *     ... write a frame to stream.frames + offset, which may be filled by DMA ...
 *     duly_local_send_one(&stream, frame_id, captured_unix_ns, offset, frame_bytes);
 *     duly_local_receive(&stream, on_outcome, NULL);     // when stream.fd is readable
 */
#ifndef DULY_LOCAL_H
#define DULY_LOCAL_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define DULY_LOCAL_VERSION 1
#define DULY_LOCAL_MESSAGE_BYTES_MAX 208000
#define DULY_LOCAL_FRAMES_MAX 64
#define DULY_LOCAL_EXTENTS 8
#define DULY_LOCAL_ALIGNMENT 64
#define DULY_LOCAL_MUST_RUN 1
#define DULY_LOCAL_ENCODED 128

enum { DULY_OPEN = 1, DULY_FRAMES, DULY_REQUEST, DULY_FINISH };
enum { DULY_OPENED = 16, DULY_OUTCOMES, DULY_RESPONSE, DULY_OUTPUTS, DULY_PART, DULY_END };

/* What duly.v1.Frame holds besides its inputs. */
struct duly_local_frame {
    uint64_t frame_id;
    int64_t captured_unix_ns; /* 0: not known */
    int64_t budget_ns;        /* 0: the stream's */
    uint16_t flags;
    uint16_t inputs;
    uint32_t reserved;
};

/* An input or an output. Outputs that came in pieces, or of a stream that has ended, are not in the area any more. */
struct duly_local_tensor {
    uint64_t offset;
    uint32_t bytes;
    uint16_t place;     /* its place in StreamOpened */
    uint8_t kind;       /* DataType; DULY_LOCAL_ENCODED and EncodedFormat; 0: the model's own */
    uint8_t dimensions; /* 0: the model's own shape */
    int32_t extents[DULY_LOCAL_EXTENTS];
};

struct duly_local_outcome {
    uint64_t frame_id;
    int64_t slack_ns;
    int64_t received_unix_ns;
    int64_t sent_ns, dispatched_ns, started_ns, finished_ns; /* since receipt; 0: it did not get there */
    int64_t capture_to_receipt_ns, clock_uncertainty_ns;
    uint8_t status; /* duly.v1.OutcomeStatus: 1 ON_TIME, 2 LATE, ... */
    uint8_t reserved;
    uint16_t batch_size;
    uint16_t outputs;
    uint16_t version_bytes, variant_bytes, reason_bytes, fused_bytes;
    uint16_t reserved2;
    uint32_t planned_delay_us; /* of models that give action chunks; else 0 */
    uint32_t reserved3;
};

struct duly_local {
    int fd; /* the socket, to be polled for what comes */
    uint8_t *frames;
    uint64_t frames_bytes;
    const uint8_t *opened; /* the StreamOpened, as bytes of protobuf */
    uint32_t opened_bytes;
    /* the rest is for the functions below */
    const uint8_t *outcomes;
    uint64_t outcomes_bytes, position, told;
    int read_fd;
    uint8_t *message, *parts;
    uint32_t message_bytes;
    uint64_t parts_bytes, parts_room;
    char end[1024];
};

/* Is given one outcome, valid during the call: its outputs, what their offsets count in, and its texts one after the
 * other (version, variant, reason), which do not end in zeros. Behind them is a duly.v1.Outcome with nothing but the
 * `fused` of a frame that was joined with others, and the `guards` of the model that found something on it. */
typedef void (*duly_local_on_outcome)(
    void *self, const struct duly_local_outcome *outcome, const struct duly_local_tensor *outputs, const uint8_t *data,
    const char *texts);

#ifdef __cplusplus
extern "C" {
#endif

int posix_fallocate(int fd, off_t offset, off_t bytes); /* which <fcntl.h> keeps back under -std=c11 */

static inline uint64_t duly_local_aligned(uint64_t bytes) {
    return (bytes + DULY_LOCAL_ALIGNMENT - 1) / DULY_LOCAL_ALIGNMENT * DULY_LOCAL_ALIGNMENT;
}

/* Writes a duly.v1.OpenStream that states the model, the backlog (1 LATEST, 3 ALL, 0: the model's), the budget (0: the
 * model's) and that both clocks are the same. Who wants to state more makes it with protobuf. Returns its bytes; 0: there
 * is no room for it. */
static inline size_t duly_local_open_stream(
    uint8_t *out, size_t room, const char *model, uint8_t backlog, int64_t budget_ns) {
    size_t name = strlen(model), at = 0;
    uint64_t left = (uint64_t)budget_ns;
    if (name > 127 || room < name + 32) return 0;
    out[at++] = 0x0a; /* model */
    out[at++] = (uint8_t)name;
    memcpy(out + at, model, name);
    at += name;
    if (backlog) {
        out[at++] = 0x28; /* backlog_policy */
        out[at++] = backlog;
    }
    if (budget_ns > 0) {
        out[at++] = 0x40; /* default_budget_nano */
        for (; left > 127; left >>= 7) out[at++] = (uint8_t)(left | 128);
        out[at++] = (uint8_t)left;
    }
    out[at++] = 0x6a; /* clock, of two bytes */
    out[at++] = 2;
    out[at++] = 0x10; /* uncertainty_nano */
    out[at++] = 1;
    return at;
}

/* Ends the stream, and frees what it has. A child that was forked must not call it. */
static inline void duly_local_close(struct duly_local *stream) {
    if (stream->frames) munmap(stream->frames, stream->frames_bytes);
    if (stream->outcomes) munmap((void *)stream->outcomes, stream->outcomes_bytes);
    if (stream->fd >= 0) {
        shutdown(stream->fd, SHUT_RDWR); /* a child that was forked may have it still */
        close(stream->fd);
    }
    if (stream->read_fd >= 0) close(stream->read_fd);
    free(stream->message);
    free(stream->parts);
    memset(stream, 0, sizeof *stream);
    stream->fd = stream->read_fd = -1;
}

/* Why the server ended the stream, as JSON with reason and text; empty: it has not. */
static inline const char *duly_local_end_text(const struct duly_local *stream) { return stream->end; }

static inline int duly_local_failed(int error) {
    errno = error;
    return -1;
}

static inline int duly_local_take_end(struct duly_local *stream, const uint8_t *message, size_t bytes) {
    size_t text = bytes - 1 < sizeof stream->end - 1 ? bytes - 1 : sizeof stream->end - 1;
    memcpy(stream->end, message + 1, text);
    stream->end[text] = 0;
    return duly_local_failed(ECONNRESET);
}

/* Tells the server how much of its outcomes was read, once that is more than a quarter of what has room. */
static inline void duly_local_tell(struct duly_local *stream) {
    uint64_t unsaid = stream->position - stream->told;
    if (unsaid > stream->outcomes_bytes / 4 && write(stream->read_fd, &unsaid, sizeof unsaid) == sizeof unsaid)
        stream->told = stream->position;
}

/* Opens a stream and waits for the server's answer. `open_stream`: a duly.v1.OpenStream as bytes. `token`: NULL: none.
 * `memory_bytes`: how much memory to share for frames; 0: the server's choice. The system gives all of it now, so that
 * nothing that is written there later has to wait for it; ENOSPC, ENOMEM: it has no room for that. */
static inline int duly_local_open(
    struct duly_local *stream, const char *path, const void *open_stream, size_t open_bytes, const char *token,
    uint64_t memory_bytes) {
    struct sockaddr_un address;
    size_t shown = token ? strlen(token) : 0, bytes = 16 + shown + open_bytes;
    uint16_t shown16 = (uint16_t)shown;
    union {
        struct cmsghdr aligned;
        char bytes[CMSG_SPACE(3 * sizeof(int))];
    } control;
    struct iovec part;
    struct msghdr head;
    struct cmsghdr *came;
    uint32_t opened_bytes;
    uint64_t areas[2];
    int fds[3] = {-1, -1, -1};
    ssize_t received;
    void *mapped;

    memset(&address, 0, sizeof address);
    memset(&head, 0, sizeof head);
    memset(stream, 0, sizeof *stream);
    stream->fd = stream->read_fd = -1;
    if (strlen(path) >= sizeof address.sun_path || bytes > DULY_LOCAL_MESSAGE_BYTES_MAX || shown > 0xffff)
        return duly_local_failed(EMSGSIZE);
    stream->message = (uint8_t *)malloc(DULY_LOCAL_MESSAGE_BYTES_MAX);
    if (!stream->message) return -1;
    stream->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    address.sun_family = AF_UNIX;
    strcpy(address.sun_path, path);
    if (stream->fd < 0 || connect(stream->fd, (struct sockaddr *)&address, sizeof address)) goto failed;

    memset(stream->message, 0, 16);
    stream->message[0] = DULY_OPEN;
    stream->message[1] = DULY_LOCAL_VERSION;
    memcpy(stream->message + 2, &shown16, 2);
    memcpy(stream->message + 8, &memory_bytes, 8);
    if (shown) memcpy(stream->message + 16, token, shown);
    memcpy(stream->message + 16 + shown, open_stream, open_bytes);
    (void)!send(stream->fd, stream->message, bytes, MSG_NOSIGNAL); /* where it fails, what is received says why */

    part.iov_base = stream->message;
    part.iov_len = DULY_LOCAL_MESSAGE_BYTES_MAX;
    head.msg_iov = &part;
    head.msg_iovlen = 1;
    head.msg_control = control.bytes;
    head.msg_controllen = sizeof control.bytes;
    do received = recvmsg(stream->fd, &head, MSG_CMSG_CLOEXEC);
    while (received < 0 && (errno == EINTR || errno == ECONNRESET)); /* what came before a reset is still there */
    if (received < 0) goto failed;
    came = CMSG_FIRSTHDR(&head);
    if (came && came->cmsg_level == SOL_SOCKET && came->cmsg_type == SCM_RIGHTS && came->cmsg_len <= CMSG_LEN(sizeof fds))
        memcpy(fds, CMSG_DATA(came), came->cmsg_len - CMSG_LEN(0));
    errno = ECONNRESET;
    if (received > 0 && stream->message[0] == DULY_END) {
        char end[sizeof stream->end];
        duly_local_take_end(stream, stream->message, (size_t)received);
        memcpy(end, stream->end, sizeof end);
        duly_local_close(stream);
        memcpy(stream->end, end, sizeof end);
        return duly_local_failed(ECONNRESET);
    }
    errno = EPROTO;
    if (received != 24 || stream->message[0] != DULY_OPENED || stream->message[1] != DULY_LOCAL_VERSION || fds[2] < 0)
        goto failed;
    memcpy(&opened_bytes, stream->message + 4, 4);
    memcpy(areas, stream->message + 8, 16);
    if (DULY_LOCAL_ALIGNMENT + (uint64_t)opened_bytes > areas[1]) goto failed;
    errno = posix_fallocate(fds[0], 0, (off_t)areas[0]); /* a page that was not there when written to would be SIGBUS */
    if (errno) goto failed;
    mapped = mmap(NULL, areas[0], PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
    if (mapped == MAP_FAILED) goto failed;
    stream->frames = (uint8_t *)mapped;
    stream->frames_bytes = areas[0];
    mapped = mmap(NULL, areas[1], PROT_READ, MAP_SHARED, fds[1], 0);
    if (mapped == MAP_FAILED) goto failed;
    stream->outcomes = (const uint8_t *)mapped;
    stream->outcomes_bytes = areas[1];
    stream->read_fd = fds[2];
    close(fds[0]);
    close(fds[1]);
    stream->opened = stream->outcomes + DULY_LOCAL_ALIGNMENT; /* it holds until frames are sent */
    stream->opened_bytes = opened_bytes;
    stream->position = duly_local_aligned(opened_bytes);
    duly_local_tell(stream); /* where it takes much of the memory, outcomes need its room */
    return 0;

failed: {
    int error = errno, n;
    for (n = 0; n < 3; n++)
        if (fds[n] >= 0 && fds[n] != stream->read_fd) close(fds[n]);
    duly_local_close(stream);
    return duly_local_failed(error);
}
}

/* Sends up to DULY_LOCAL_FRAMES_MAX frames in one message, each with one input, whose data lies in `frames` and stays as
 * it is until the frame's outcome has come. It waits while the socket is full, unless the socket was made not to:
 * EAGAIN. */
static inline int duly_local_send(
    struct duly_local *stream, const struct duly_local_frame *frames, const struct duly_local_tensor *inputs,
    unsigned count) {
    struct {
        uint8_t head[8];
        struct {
            struct duly_local_frame frame;
            struct duly_local_tensor input;
        } frames[DULY_LOCAL_FRAMES_MAX];
    } message;
    uint16_t count16 = (uint16_t)count;
    unsigned n;
    ssize_t sent;
    if (!count || count > DULY_LOCAL_FRAMES_MAX) return duly_local_failed(EINVAL);
    memset(message.head, 0, sizeof message.head);
    message.head[0] = DULY_FRAMES;
    memcpy(message.head + 2, &count16, 2);
    for (n = 0; n < count; n++) {
        message.frames[n].frame = frames[n];
        message.frames[n].frame.inputs = 1;
        message.frames[n].frame.reserved = 0;
        message.frames[n].input = inputs[n];
    }
    do sent = send(stream->fd, &message, 8 + count * sizeof message.frames[0], MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -1 : 0;
}

/* Sends a frame of the model's own type and shape. */
static inline int duly_local_send_one(
    struct duly_local *stream, uint64_t frame_id, int64_t captured_unix_ns, uint64_t offset, uint32_t bytes) {
    struct duly_local_frame frame;
    struct duly_local_tensor input;
    memset(&frame, 0, sizeof frame);
    memset(&input, 0, sizeof input);
    frame.frame_id = frame_id;
    frame.captured_unix_ns = captured_unix_ns;
    input.offset = offset;
    input.bytes = bytes;
    return duly_local_send(stream, &frame, &input, 1);
}

/* Says that no more frames follow. The server ends the stream when all are answered. */
static inline int duly_local_finish(struct duly_local *stream) {
    uint8_t kind = DULY_FINISH;
    ssize_t sent;
    do sent = send(stream->fd, &kind, 1, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -1 : 0;
}

static inline int duly_local_part(struct duly_local *stream, const uint8_t *message, size_t bytes) {
    uint32_t size;
    uint64_t offset;
    if (bytes != 24) return duly_local_failed(EPROTO);
    memcpy(&size, message + 4, 4);
    memcpy(&offset, message + 8, 8);
    if (offset > stream->outcomes_bytes || size > stream->outcomes_bytes - offset) return duly_local_failed(EPROTO);
    if (stream->parts_bytes + size > stream->parts_room) {
        uint64_t room = 2 * (stream->parts_bytes + size);
        uint8_t *parts = (uint8_t *)realloc(stream->parts, room);
        if (!parts) return -1;
        stream->parts = parts;
        stream->parts_room = room;
    }
    memcpy(stream->parts + stream->parts_bytes, stream->outcomes + offset, size);
    stream->parts_bytes += size;
    memcpy(&stream->position, message + 16, 8);
    return 0;
}

static inline int duly_local_each(
    struct duly_local *stream, const uint8_t *message, size_t bytes, duly_local_on_outcome on_outcome, void *self) {
    uint16_t count;
    uint32_t flags;
    const uint8_t *data;
    uint64_t data_bytes;
    size_t at = 16;
    unsigned n, o;
    if (bytes < at) return duly_local_failed(EPROTO);
    memcpy(&count, message + 2, 2);
    memcpy(&flags, message + 4, 4);
    data = flags & 1 ? stream->parts : stream->outcomes;
    data_bytes = flags & 1 ? stream->parts_bytes : stream->outcomes_bytes;
    for (n = 0; n < count; n++) {
        /* `message` and all that is in it are aligned to 8 bytes */
        const struct duly_local_outcome *outcome = (const struct duly_local_outcome *)(const void *)(message + at);
        const struct duly_local_tensor *outputs;
        size_t texts;
        if (bytes - at < sizeof *outcome) return duly_local_failed(EPROTO);
        at += sizeof *outcome;
        outputs = (const struct duly_local_tensor *)(const void *)(message + at);
        texts = (size_t)outcome->version_bytes + outcome->variant_bytes + outcome->reason_bytes + outcome->fused_bytes;
        if (bytes - at < outcome->outputs * sizeof *outputs + texts) return duly_local_failed(EPROTO);
        for (o = 0; o < outcome->outputs; o++)
            if (outputs[o].offset > data_bytes || outputs[o].bytes > data_bytes - outputs[o].offset)
                return duly_local_failed(EPROTO);
        at += outcome->outputs * sizeof *outputs;
        on_outcome(self, outcome, outputs, data, (const char *)(message + at));
        at += (texts + 7) / 8 * 8;
        if (at > bytes) return duly_local_failed(EPROTO);
    }
    memcpy(&stream->position, message + 8, 8);
    if (flags & 1) stream->parts_bytes = 0;
    return 0;
}

/* Whether what outcomes give still holds. See to it after what `on_outcome` was given was used or copied: where the
 * stream had ended meanwhile, it is nothing. */
static inline int duly_local_alive(const struct duly_local *stream) {
    __atomic_thread_fence(__ATOMIC_ACQUIRE); /* what was read before is not read after this */
    return __atomic_load_n((const uint64_t *)(const void *)stream->outcomes, __ATOMIC_RELAXED) != 0;
}

/* Receives one message, and gives each outcome in it to `on_outcome`. Returns the kind of the message; -1 with
 * ECONNRESET where the stream has ended: well, where duly_local_end_text has an empty reason. */
static inline int duly_local_receive(struct duly_local *stream, duly_local_on_outcome on_outcome, void *self) {
    ssize_t received;
    int kind;
    do received = recv(stream->fd, stream->message, DULY_LOCAL_MESSAGE_BYTES_MAX, 0);
    while (received < 0 && (errno == EINTR || errno == ECONNRESET)); /* what came before a reset is still there */
    if (received < 0) return -1;
    if (!received) return duly_local_failed(ECONNRESET);
    kind = stream->message[0];
    stream->message_bytes = (uint32_t)received;
    if (kind == DULY_OUTCOMES) {
        if (duly_local_each(stream, stream->message, (size_t)received, on_outcome, self)) return -1;
        if (!duly_local_alive(stream)) return duly_local_failed(ECONNRESET);
        duly_local_tell(stream);
    } else if (kind == DULY_PART) {
        if (duly_local_part(stream, stream->message, (size_t)received)) return -1;
        if (!duly_local_alive(stream)) return duly_local_failed(ECONNRESET);
        duly_local_tell(stream);
    } else if (kind == DULY_END) {
        return duly_local_take_end(stream, stream->message, (size_t)received);
    }
    return kind; /* advice and the like: stream->message holds it, of message_bytes */
}

#ifdef __cplusplus
}
#endif
#endif
