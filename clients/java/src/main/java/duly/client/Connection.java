package duly.client;

import duly.v1.Inference;
import duly.v1.Inference.CancelFrames;
import duly.v1.Inference.ClockPing;
import duly.v1.Inference.ClockPong;
import duly.v1.Inference.FrameBatch;
import duly.v1.Inference.OpenStream;
import duly.v1.Inference.StreamRequest;
import duly.v1.Inference.StreamResponse;
import duly.v1.InferenceServiceGrpc;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.Metadata;
import io.grpc.Status;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Future;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.Lock;

/**
 * One {@code Stream} call, from its OpenStream to its status. A stream uses one after the other when connections are
 * lost. All is done under the stream's lock, which the callbacks of gRPC take; gRPC itself bounds what waits for the
 * transport.
 */
final class Connection {
    /** Bytes that may wait for the transport before sending waits. Older data is worth less than newer data. */
    private static final int PENDING_BYTES_MAX = 256 * 1024;

    /** Number of exchanges, one after the other, when the stream opens: enough to meet a quick one. */
    private static final int PINGS_AT_OPEN = 8;

    private static final long PING_PERIOD_NS = 10_000_000_000L;

    private static final Metadata.Key<String> AUTHORIZATION =
            Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

    /** Who hears of what comes, under the lock. */
    interface Receiver {
        void outcomes(List<Inference.Outcome> outcomes);

        void advice(Advice advice);

        /** More may be sent. */
        void room();

        /** Whether more messages shall be received now; if not, {@link #resume} is called later. */
        boolean isReading();

        /** The call is over, with why; empty: the server's OK. */
        void ended(Connection connection, Optional<DulyException> error);
    }

    /** Done once the server can count budgets from capture, or the call is over. */
    final CompletableFuture<Void> clockRelated = new CompletableFuture<>();

    /** What was agreed, or why nothing was. */
    final CompletableFuture<StreamTerms> opened = new CompletableFuture<>();

    private final String target;
    private final Lock lock;
    private final WallClock wall;
    private final Receiver receiver;
    private final ScheduledExecutorService timers;
    private final ClientCall<StreamRequest, StreamResponse> call;
    private final Clock clock = new Clock();
    private boolean over;
    private boolean halfClosed;
    private boolean paused;
    private long wallMovedNs;
    private long pingId;
    private long pingMovedNs;
    private int pingsInARow = PINGS_AT_OPEN;
    private Future<?> pingTimer = CompletableFuture.completedFuture(null);

    Connection(
            Channel channel,
            String target,
            String token,
            OpenStream request,
            Lock lock,
            WallClock wall,
            Receiver receiver,
            ScheduledExecutorService timers) {
        this.target = target;
        this.lock = lock;
        this.wall = wall;
        this.receiver = receiver;
        this.timers = timers;
        wallMovedNs = wall.movedNs();
        var options = CallOptions.DEFAULT.withOnReadyThreshold(PENDING_BYTES_MAX);
        call = channel.newCall(InferenceServiceGrpc.getStreamMethod(), options);
        call.start(new Listener(), headers(token));
        call.request(1);
        call.sendMessage(StreamRequest.newBuilder().setOpen(request).build());
    }

    /** The headers that show a token; "": none. */
    static Metadata headers(String token) {
        var headers = new Metadata();
        if (!token.isEmpty()) {
            headers.put(AUTHORIZATION, "Bearer " + token);
        }
        return headers;
    }

    /** False where a frame has to wait until earlier ones went to the transport. */
    boolean hasRoom() {
        return !over && call.isReady();
    }

    boolean isOver() {
        return over;
    }

    Optional<ClockEstimate> clock() {
        return clock.estimate(wall.nowNs());
    }

    /** Sends a frame. */
    void put(Inference.Frame frame) {
        call.sendMessage(StreamRequest.newBuilder()
                .setFrames(FrameBatch.newBuilder().addFrames(frame))
                .build());
    }

    void cancelFrames(List<Long> frameIds) {
        if (!over && !halfClosed) {
            var cancel = CancelFrames.newBuilder().addAllFrameIds(frameIds);
            call.sendMessage(StreamRequest.newBuilder().setCancel(cancel).build());
        }
    }

    /** Receives again, where that had stopped. */
    void resume() {
        if (paused) {
            paused = false;
            call.request(1);
        }
    }

    /** Half-closes the call behind all that was sent. */
    void finish() {
        if (!over && !halfClosed) {
            halfClosed = true;
            pingTimer.cancel(false);
            call.halfClose();
        }
    }

    /** Ends the call now, for this reason. */
    void close(DulyException why) {
        if (!over) {
            call.cancel(why.getMessage(), null);
            end(Optional.of(why));
        }
    }

    private void end(Optional<DulyException> error) {
        if (over) {
            return;
        }
        over = true;
        pingTimer.cancel(false);
        opened.completeExceptionally(error.orElseGet(
                () -> new DulyException.ProtocolError("the server ended the stream in place of opening it")));
        clockRelated.complete(null);
        receiver.ended(this, error);
    }

    // ---- receiving ----

    private final class Listener extends ClientCall.Listener<StreamResponse> {
        @Override
        public void onMessage(StreamResponse response) {
            lock.lock();
            try {
                take(response);
            } catch (DulyException error) {
                close(error);
            } finally {
                lock.unlock();
            }
        }

        @Override
        public void onReady() {
            lock.lock();
            try {
                receiver.room();
            } finally {
                lock.unlock();
            }
        }

        @Override
        public void onClose(Status status, Metadata trailers) {
            lock.lock();
            try {
                end(status.isOk() ? Optional.empty() : Optional.of(Errors.of(status, trailers, target)));
            } finally {
                lock.unlock();
            }
        }
    }

    private void take(StreamResponse response) {
        if (over) {
            return;
        }
        if (!opened.isDone()) {
            if (!response.hasOpened()) {
                throw new DulyException.ProtocolError(
                        "the stream began with " + response.getResponseCase() + " in place of OPENED");
            }
            opened.complete(StreamTerms.of(response.getOpened()));
            ping();
        }
        switch (response.getResponseCase()) {
            case OUTCOMES -> receiver.outcomes(response.getOutcomes().getOutcomesList());
            case ADVICE -> receiver.advice(Advice.of(response.getAdvice()));
            case CLOCK_PONG -> learn(response.getClockPong());
            default -> {} // for newer clients
        }
        if (receiver.isReading()) {
            call.request(1);
        } else {
            paused = true;
        }
    }

    // ---- clock ----

    /** Where the client's clock was set, the server learns of it before it gets the next frame. */
    void heedTheWallClock() {
        long aheadNs = wall.movedNs() - wallMovedNs;
        if (aheadNs != 0) {
            wallMovedNs = wall.movedNs();
            clock.moved(aheadNs);
            pingsInARow = Math.max(pingsInARow, 1);
            ping();
        }
    }

    private void ping() {
        if (over || halfClosed) {
            return;
        }
        pingTimer.cancel(false);
        long nowNs = wall.nowNs();
        if (wall.movedNs() != wallMovedNs) {
            heedTheWallClock();
            return;
        }
        pingMovedNs = wall.movedNs();
        pingId++;
        var ping = ClockPing.newBuilder().setPingId(pingId).setClientSendUnixNano(nowNs);
        // The server uses the estimate until the next one comes, so it must hold until then.
        clock.estimate(nowNs + PING_PERIOD_NS)
                .ifPresent(estimate -> ping.setClock(Inference.ClockEstimate.newBuilder()
                        .setOffsetNano(estimate.offsetNs())
                        .setUncertaintyNano(estimate.uncertaintyNs())));
        call.sendMessage(StreamRequest.newBuilder().setClockPing(ping).build());
    }

    private void learn(ClockPong pong) {
        long receivedNs = wall.nowNs();
        heedTheWallClock();
        if (pong.getPingId() != pingId) {
            return; // another ping followed it at once
        }
        long sentNs = pong.getClientSendUnixNano() + wall.movedNs() - pingMovedNs;
        if (clock.add(sentNs, pong.getServerReceiveUnixNano(), pong.getServerSendUnixNano(), receivedNs)) {
            pingsInARow = PINGS_AT_OPEN; // a clock was set: the server shall know at once, and well
        }
        pingsInARow = Math.max(0, pingsInARow - 1);
        if (pingsInARow > 0) {
            ping();
        } else if (!over) {
            pingTimer = timers.schedule(this::pingLater, PING_PERIOD_NS, TimeUnit.NANOSECONDS);
        }
        clockRelated.complete(null); // the ping that has the estimate goes before any frame
    }

    private void pingLater() {
        lock.lock();
        try {
            ping();
        } finally {
            lock.unlock();
        }
    }
}
