package duly.client;

import duly.v1.Inference.FeedbackRequest;
import duly.v1.Inference.OpenStream;
import duly.v1.InferenceServiceGrpc;
import io.grpc.CallOptions;
import io.grpc.ClientInterceptors;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.MetadataUtils;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.Lock;

/** One connection to a server, any number of streams over it. Safe for use by several threads. */
public final class Client implements AutoCloseable {
    /** A call that is answered later has failed. */
    private static final long CALL_SECONDS = 30;

    private final String target;
    private final Token token;
    private final Channels channels;
    private final Duration openTimeout;
    private final int reconnectTriesMax;
    private final Set<FrameStream> streams = ConcurrentHashMap.newKeySet();

    /** For timers, and for the application's listeners of advice. */
    private final ScheduledThreadPoolExecutor timers;

    private volatile String shown = "";
    private volatile boolean closed;

    private Client(Builder builder) {
        target = builder.target;
        token = builder.token;
        if (token != null && builder.tls == null && !builder.tokenInClearText && !Target.isLocal(target)) {
            throw new IllegalArgumentException("the token would cross the network to " + target
                    + " in clear text: use tls, or say tokenInClearText(true)");
        }
        openTimeout = builder.openTimeout;
        reconnectTriesMax = builder.reconnectTriesMax;
        channels = new Channels(target, builder.tls);
        timers = new ScheduledThreadPoolExecutor(1, task -> {
            var thread = new Thread(task, "duly-client");
            thread.setDaemon(true);
            return thread;
        });
        timers.setRemoveOnCancelPolicy(true);
    }

    /** A client of the server at "HOST:PORT" or "unix:PATH", in plain text. It connects when its first stream opens. */
    public static Client of(String target) {
        return builder(target).build();
    }

    /** Throws IllegalArgumentException where the target can be no server's. */
    public static Builder builder(String target) {
        Target.check(target);
        return new Builder(target);
    }

    /** How a client connects. */
    public static final class Builder {
        private final String target;
        private Tls tls;
        private Token token;
        private boolean tokenInClearText;
        private Duration openTimeout = Duration.ofSeconds(10);
        private int reconnectTriesMax = Integer.MAX_VALUE;

        private Builder(String target) {
            this.target = target;
        }

        /** Speaks TLS in place of plain text. */
        public Builder tls(Tls how) {
            tls = how;
            return this;
        }

        /** The bearer token that each call shows. Throws IllegalArgumentException where it is none. */
        public Builder token(String text) {
            token = new Token(text);
            return this;
        }

        /** A file with the token, which is read again for every opening. Throws IllegalArgumentException as above. */
        public Builder tokenFile(Path file) {
            token = new Token(file);
            return this;
        }

        /** True: a token may cross a network without TLS. */
        public Builder tokenInClearText(boolean may) {
            tokenInClearText = may;
            return this;
        }

        /** How long a stream may take to open; 10 s where not stated. What may pass is tried again until then. */
        public Builder openTimeout(Duration time) {
            StreamOptions.nanoseconds("openTimeout", time);
            openTimeout = time;
            return this;
        }

        /**
         * How many failed tries in a row end a stream; not stated: it never gives up. 0: nothing is tried again when
         * the connection is lost, and at first neither.
         */
        public Builder reconnectTriesMax(int tries) {
            reconnectTriesMax = tries;
            return this;
        }

        /**
         * Throws IllegalArgumentException where a file of TLS cannot be used, or where the token would leave this
         * machine in clear text.
         */
        public Client build() {
            return new Client(this);
        }
    }

    /**
     * Opens a stream. A server that starts, drains or is busy is tried again within the time to open.
     *
     * @throws DulyException where it is refused for good or does not open in time
     * @throws IllegalStateException where the client is closed
     */
    public FrameStream open(StreamOptions options) throws InterruptedException {
        var stream = new FrameStream(this, options);
        streams.add(stream);
        try {
            stream.open();
        } catch (DulyException | IllegalStateException | InterruptedException error) {
            streams.remove(stream);
            throw error;
        }
        return stream;
    }

    /**
     * Says what was right for frames that were answered, whenever that is known: the server joins it with what it keeps
     * of them. Returns what became of each, in their order. Many go in several messages; sending one again is safe, as
     * the newest label of a frame counts.
     *
     * @throws DulyException where the server takes none
     * @throws IllegalStateException where the client is closed
     */
    public List<FeedbackResult> feedback(List<Feedback> items) {
        if (closed) {
            throw new IllegalStateException("the client is closed");
        }
        List<FeedbackResult> results = new ArrayList<>();
        for (FeedbackRequest request : Feedback.requests(items)) {
            var options = CallOptions.DEFAULT.withDeadlineAfter(CALL_SECONDS, TimeUnit.SECONDS);
            var channel = ClientInterceptors.intercept(
                    channels.channel(),
                    MetadataUtils.newAttachHeadersInterceptor(Connection.headers(token == null ? "" : token.now())));
            try {
                ClientCalls.blockingUnaryCall(channel, InferenceServiceGrpc.getFeedbackMethod(), options, request)
                        .getResultsList()
                        .forEach(result -> results.add(new FeedbackResult(
                                FeedbackStatus.of(result.getStatusValue()), result.getReason())));
            } catch (StatusRuntimeException error) {
                throw Errors.of(error.getStatus(), error.getTrailers(), target);
            }
        }
        return results;
    }

    /** Ends the connection and every stream over it. */
    @Override
    public void close() {
        closed = true;
        for (FrameStream stream : List.copyOf(streams)) {
            stream.close();
        }
        channels.close();
        timers.shutdownNow();
    }

    // ---- for its streams ----

    String target() {
        return target;
    }

    Duration openTimeout() {
        return openTimeout;
    }

    int reconnectTriesMax() {
        return reconnectTriesMax;
    }

    boolean isClosed() {
        return closed;
    }

    Connection connect(OpenStream request, Lock lock, WallClock wall, Connection.Receiver receiver) {
        if (closed) {
            throw new IllegalStateException("the client is closed");
        }
        shown = token == null ? "" : token.now();
        return new Connection(channels.channel(), target, shown, request, lock, wall, receiver, timers);
    }

    /** Whether opening again may succeed: also where a token was refused and there is a newer one. */
    boolean mayRecover(DulyException error) {
        boolean newer = token != null && error.reason().equals("UNAUTHENTICATED") && !token.now().equals(shown);
        return error.recoverable() || newer;
    }

    void schedule(Runnable task, long delayMs) {
        try {
            timers.schedule(task, delayMs, TimeUnit.MILLISECONDS);
        } catch (RejectedExecutionException error) {
            return; // the client is closed, and its streams with it
        }
    }

    void execute(Runnable task) {
        schedule(task, 0);
    }

    void forget(FrameStream stream) {
        streams.remove(stream);
    }
}
