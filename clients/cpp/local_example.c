/* Streams frames from standard input to a model of a server on the same machine, eight at a time, and prints what comes
 * back:
 *
 *     cc -O2 local_example.c -o local_example
 *     ./local_example /run/duly-cameras.sock MODEL FRAME_BYTES < frames
 *
 * It is C and C++ alike. The frames are read where the server reads them: nothing is copied in between.
 */
#include "duly_local.h"

#include <poll.h>
#include <stdio.h>
#include <time.h>

#define IN_FLIGHT 8

static void on_outcome(
    void *self, const struct duly_local_outcome *outcome, const struct duly_local_tensor *outputs, const uint8_t *data,
    const char *texts) {
    unsigned *in_flight = (unsigned *)self;
    unsigned output, byte;
    --*in_flight;
    printf("frame %llu status %u", (unsigned long long)outcome->frame_id, outcome->status);
    for (output = 0; output < outcome->outputs; output++) {
        printf(" output %u:", outputs[output].place);
        for (byte = 0; byte < outputs[output].bytes && byte < 16; byte++)
            printf(" %02x", data[outputs[output].offset + byte]);
    }
    printf(" %.*s\n", outcome->reason_bytes, texts + outcome->version_bytes + outcome->variant_bytes);
}

/* Reads a whole frame. Returns whether there was one. */
static int read_frame(uint8_t *place, size_t bytes) { return fread(place, 1, bytes, stdin) == bytes; }

int main(int count, char **words) {
    struct duly_local stream;
    uint8_t open[256];
    size_t bytes, frame_bytes = count == 4 ? strtoul(words[3], NULL, 10) : 0;
    uint64_t frame_id = 0, places;
    unsigned in_flight = 0;
    int more = 1;
    if (!frame_bytes) {
        fprintf(stderr, "usage: %s PATH MODEL FRAME_BYTES < frames\n", words[0]);
        return 2;
    }
    bytes = duly_local_open_stream(open, sizeof open, words[2], 3, 5000000000);
    if (duly_local_open(&stream, words[1], open, bytes, NULL, 0)) {
        perror(*duly_local_end_text(&stream) ? duly_local_end_text(&stream) : words[1]);
        return 1;
    }
    places = stream.frames_bytes / duly_local_aligned(frame_bytes);
    if (places > IN_FLIGHT) places = IN_FLIGHT;
    while (more || in_flight) {
        while (more && in_flight < places) {
            /* Outcomes may come in another order than frames, so that a place is used again when all are answered. */
            uint64_t offset = frame_id % places * duly_local_aligned(frame_bytes);
            struct timespec now;
            if (in_flight && frame_id % places == 0) break;
            more = read_frame(stream.frames + offset, frame_bytes);
            if (!more) break;
            clock_gettime(CLOCK_REALTIME, &now);
            if (duly_local_send_one(
                    &stream, ++frame_id, now.tv_sec * 1000000000LL + now.tv_nsec, offset, (uint32_t)frame_bytes))
                break; /* what is received says why */
            in_flight++;
        }
        if (!more && !in_flight) break;
        if (duly_local_receive(&stream, on_outcome, &in_flight) < 0) {
            fprintf(stderr, "the stream has ended: %s\n", duly_local_end_text(&stream));
            return 1;
        }
    }
    duly_local_finish(&stream);
    while (duly_local_receive(&stream, on_outcome, &in_flight) >= 0) continue;
    duly_local_close(&stream);
    return 0;
}
