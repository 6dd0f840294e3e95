package duly.client;

import com.google.protobuf.UnsafeByteOperations;
import duly.v1.Inference;
import duly.v1.TensorOuterClass;
import java.time.Duration;
import java.time.Instant;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.NoSuchElementException;
import java.util.Optional;
import java.util.OptionalLong;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.Consumer;

/**
 * A sensor's stream as the application sees it: frames in, exactly one outcome a frame out, over as many calls as it
 * takes. Safe for use by several threads: usually one sends and another one receives.
 *
 * <p>Bounds: no more than the in-flight credit of outcomes wait to be read; then reading from the wire stops. No more
 * than 4096 frames are unanswered or unread together, and no more than 256 KiB wait for the transport; then {@link
 * #send} waits and {@link #trySend} gives up. A frame is never sent twice: when the connection is lost, those in flight
 * are CANCELLED.
 */
public final class FrameStream implements Iterable<Outcome>, AutoCloseable {
    /** How long opening waits for the clocks to be related. Until they are, budgets count from receipt. */
    private static final long CLOCK_WAIT_MS = 1000;

    /** Pauses between two tries to connect. They double, and each is shortened at random by up to a half. */
    private static final long BACKOFF_MIN_MS = 100;

    private static final long BACKOFF_MAX_MS = 5000;

    /** No pause is longer while the application waits for the stream to open for the first time. */
    private static final long OPEN_PAUSE_MAX_MS = 1000;

    /** How long sending waits for an application that reads no outcomes. */
    private static final long UNREAD_WAIT_NS = 10_000_000_000L;

    /** More than the fields of a frame and of the messages around it take, all but its inputs. */
    private static final int FIELDS_BYTES_MAX = 256;

    private final Client client;
    private final Inference.OpenStream request;
    private final Consumer<Advice> onAdvice;
    private final boolean followAdvice;
    private final WallClock wall = new WallClock();
    private final Frames frames = new Frames();
    private final ReentrantLock lock = new ReentrantLock();
    private final Condition sendable = lock.newCondition();
    private final Condition readable = lock.newCondition();
    private final Receiver receiver = new Receiver();

    /** The open one; null while there is none. */
    private Connection connection;

    /** The one that is open or opening. */
    private Connection newest;

    private StreamTerms terms;
    private Pace pace = new Pace();
    private String lostReason = "";
    private int tries;
    private long openedNs;

    /** Set once the stream is finished or closed: it takes no more frames and does not reconnect. */
    private boolean stopping;

    /** Set once no more outcomes come. */
    private boolean ended;

    private DulyException error;

    FrameStream(Client client, StreamOptions options) {
        this.client = client;
        request = options.request();
        onAdvice = options.onAdvice();
        followAdvice = options.followAdvice();
    }

    // ---- opening ----

    /**
     * Opens the stream for the first time, as it is opened again later: what may pass is tried again, as long as the
     * time to open lasts. A refusal by admission is no such thing: it says what would fit, which the application
     * decides on.
     */
    void open() throws InterruptedException {
        long giveUpNs = System.nanoTime() + client.openTimeout().toNanos();
        for (int failed = 0; ; failed++) {
            try {
                connect(giveUpNs - System.nanoTime());
                return;
            } catch (DulyException failure) {
                long pauseMs = Math.min(OPEN_PAUSE_MAX_MS, backoffMs(failed));
                boolean passes = client.mayRecover(failure) && !failure.reason().equals("ADMISSION_REFUSED");
                boolean usedUp = failed >= client.reconnectTriesMax();
                if (!passes || usedUp || System.nanoTime() + pauseMs * 1_000_000 - giveUpNs >= 0) {
                    throw failure;
                }
                Thread.sleep(pauseMs);
            }
        }
    }

    private void connect(long timeoutNs) throws InterruptedException {
        Connection opening = begin();
        try {
            opening.opened.get(Math.max(0, timeoutNs), TimeUnit.NANOSECONDS);
            opening.clockRelated.get(CLOCK_WAIT_MS, TimeUnit.MILLISECONDS);
        } catch (TimeoutException slow) {
            if (!opening.opened.isDone()) {
                var late = noAnswer();
                locked(() -> opening.close(late));
                throw late;
            }
        } catch (ExecutionException failure) {
            throw (DulyException) failure.getCause();
        } catch (InterruptedException interrupted) {
            close();
            throw interrupted;
        }
    }

    private DulyException noAnswer() {
        return new DulyException.ServerUnavailable(
                "no answer from " + client.target() + " in " + client.openTimeout().toMillis() + " ms");
    }

    private Connection begin() {
        lock.lock();
        try {
            newest = client.connect(request, lock, wall, receiver);
            Connection opening = newest;
            opening.opened.thenAccept(agreed -> opened(opening, agreed));
            return opening;
        } finally {
            lock.unlock();
        }
    }

    /** Under the lock, in the callback that brought the terms. */
    private void opened(Connection opening, StreamTerms agreed) {
        connection = opening;
        terms = agreed;
        pace = new Pace(); // nothing has been advised there
        openedNs = System.nanoTime();
        frames.agreed(agreed);
        if (stopping) {
            opening.finish();
        }
        sendable.signalAll();
    }

    /**
     * By what {@code Feedback} names the stream for that frame. It holds for good, so that whoever learns later what was
     * right keeps it together with the frame's id. "": the server keeps no frames of the model.
     */
    public String keyOf(long frameId) {
        lock.lock();
        try {
            return frames.keyOf(frameId);
        } finally {
            lock.unlock();
        }
    }

    /** Terms that were agreed; after a reconnection, those agreed then. */
    public StreamTerms opened() {
        lock.lock();
        try {
            return terms;
        } finally {
            lock.unlock();
        }
    }

    /** The server's wall clock minus the client's, and its uncertainty; empty while that is unknown. */
    public Optional<ClockEstimate> clock() {
        lock.lock();
        try {
            return connection == null ? Optional.empty() : connection.clock();
        } finally {
            lock.unlock();
        }
    }

    // ---- sending ----

    private record Asked(
            Inference.Frame.Builder frame, long size, long budgetNs, long askedNs, long capturedNs, long wallMovedNs) {}

    /**
     * Sends a frame and returns its id. Its outcome comes by {@link #receive}. The frame's bytes may be changed after
     * the return.
     *
     * <p>Waits while the transport is full. While the connection is lost it waits no longer than the budget; then the
     * frame is CANCELLED. A stream that follows advice does not send frames that come faster than the server advises:
     * they are SUPERSEDED here, unless they must run.
     *
     * @throws IllegalArgumentException where the frame cannot be sent
     * @throws IllegalStateException where the stream is finished or closed
     * @throws DulyException.ClientTooSlow where nobody reads the outcomes
     * @throws DulyException with what ended the stream where it has ended
     */
    public long send(Frame frame) throws InterruptedException {
        lock.lockInterruptibly();
        try {
            Asked asked = ask(frame);
            while (true) {
                OptionalLong frameId = sendNow(asked);
                if (frameId.isPresent()) {
                    return frameId.getAsLong();
                }
                if (!awaitChange(asked)) {
                    long cancelled = frames.nextId();
                    frames.cancel(cancelled, System.nanoTime() - asked.capturedNs, "not sent, " + lostReason);
                    readable.signal();
                    return cancelled;
                }
            }
        } finally {
            lock.unlock();
        }
    }

    /**
     * Sends a frame and returns its id; empty, at once, where there is no room: where {@link #send} would wait, or the
     * server would shed the frame because as much as the stream's credit is unanswered. Throws what send throws.
     */
    public OptionalLong trySend(Frame frame) {
        lock.lock();
        try {
            Asked asked = ask(frame);
            return frames.isWithinCredit(asked.size) ? sendNow(asked) : OptionalLong.empty();
        } finally {
            lock.unlock();
        }
    }

    /** Withdraws frames that still wait; each of them is answered all the same. Other ids are ignored. */
    public void cancel(Iterable<Long> frameIds) {
        lock.lock();
        try {
            List<Long> inFlight = frames.amongInFlight(frameIds);
            if (connection != null && !inFlight.isEmpty()) {
                connection.cancelFrames(inFlight);
            }
        } finally {
            lock.unlock();
        }
    }

    private Asked ask(Frame frame) {
        long wallNs = wall.nowNs();
        long askedNs = System.nanoTime();
        long captureNs = wallNs;
        if (frame.capturedAt() != null) {
            Instant time = frame.capturedAt();
            captureNs = Math.addExact(Math.multiplyExact(time.getEpochSecond(), 1_000_000_000L), time.getNano());
        }
        if (captureNs <= 0) {
            throw new IllegalArgumentException("capturedAt: expected a time after 1970, not " + frame.capturedAt());
        }
        long budgetNs = frame.budget() == null ? 0 : StreamOptions.nanoseconds("budget", frame.budget());
        var wire = Inference.Frame.newBuilder()
                .setCaptureTimeUnixNano(captureNs)
                .setBudgetNano(budgetNs)
                .setMustRun(frame.mustRun());
        long size = FIELDS_BYTES_MAX;
        for (Map.Entry<String, Input> input : frame.inputs().entrySet()) {
            size += 64 + 3L * input.getKey().length() + add(wire, input.getKey(), input.getValue());
        }
        long sizeMax = terms.messageBytesMax();
        if (sizeMax > 0 && size > sizeMax) {
            throw new IllegalArgumentException("the frame takes about " + size + " bytes; the server reads " + sizeMax);
        }
        return new Asked(wire, size, budgetNs, askedNs, askedNs - (wallNs - captureNs), wall.movedNs());
    }

    /** Adds an input and returns its size, bytes. gRPC copies the bytes when it is given the message. */
    private static int add(Inference.Frame.Builder frame, String name, Input input) {
        if (input instanceof Encoded encoded) {
            frame.addEncoded(TensorOuterClass.Encoded.newBuilder()
                    .setName(name)
                    .setFormat(encoded.encoding().wire)
                    .setData(UnsafeByteOperations.unsafeWrap(encoded.data())));
            return encoded.data().length;
        }
        Tensor tensor = (Tensor) input;
        frame.addTensors(TensorOuterClass.Tensor.newBuilder()
                .setName(name)
                .setDatatype(tensor.datatype().wire())
                .addAllShape(tensor.shape())
                .setData(UnsafeByteOperations.unsafeWrap(tensor.data())));
        return tensor.data().remaining();
    }

    /** Sends a frame and returns its id; empty where it has to wait. */
    private OptionalLong sendNow(Asked asked) {
        if (stopping) {
            throw error != null ? error : new IllegalStateException("the stream takes no more frames: it has ended");
        }
        if (connection == null || !frames.hasRoom()) {
            return OptionalLong.empty();
        }
        long nowNs = System.nanoTime();
        if (!asked.frame.getMustRun() && !pace.due(nowNs)) {
            long keptBack = frames.nextId();
            frames.keepBack(keptBack, nowNs - asked.capturedNs, pace.periodNs());
            readable.signal();
            return OptionalLong.of(keptBack);
        }
        if (!connection.hasRoom()) {
            return OptionalLong.empty();
        }
        wall.nowNs(); // looks whether the clock was set
        connection.heedTheWallClock();
        long frameId = frames.nextId();
        asked.frame
                .setFrameId(frameId)
                .setCaptureTimeUnixNano(asked.frame.getCaptureTimeUnixNano() + wall.movedNs() - asked.wallMovedNs);
        frames.sent(frameId, asked.capturedNs, asked.size);
        connection.put(asked.frame.build());
        if (pace.periodNs() > 0) {
            pace.sent(nowNs);
        }
        return OptionalLong.of(frameId);
    }

    /** Waits until something changes. False: the connection is lost and did not come back within the budget. */
    private boolean awaitChange(Asked asked) throws InterruptedException {
        boolean full = !frames.hasRoom();
        if (!full && connection != null) {
            sendable.await();
            return true;
        }
        long waitNs = UNREAD_WAIT_NS;
        if (!full) {
            long budgetNs = asked.budgetNs > 0 ? asked.budgetNs : terms.defaultBudgetNs();
            waitNs = asked.askedNs + budgetNs - System.nanoTime();
            if (waitNs <= 0) {
                return false;
            }
        }
        long leftNs = sendable.awaitNanos(waitNs);
        if (full && leftNs <= 0 && frames.isFull()) {
            throw new DulyException.ClientTooSlow(
                    frames.unread() + " outcomes are unread: receive them, in another thread, while you send",
                    "",
                    Map.of());
        }
        return true;
    }

    // ---- outcomes ----

    /**
     * Waits for the next outcome and returns it; empty after {@link #finish} when all came, and after {@link #close}.
     *
     * @throws DulyException with what ended the stream, after the outcomes of all frames
     */
    public Optional<Outcome> receive() throws InterruptedException {
        lock.lockInterruptibly();
        try {
            Optional<Outcome> outcome;
            while ((outcome = take()).isEmpty() && !ended) {
                readable.await();
            }
            return outcome;
        } finally {
            lock.unlock();
        }
    }

    /**
     * Returns the next outcome; empty where none came in time, or as {@link #receive} does. Throws what that throws.
     */
    public Optional<Outcome> poll(Duration timeout) throws InterruptedException {
        long leftNs = timeout.toNanos();
        lock.lockInterruptibly();
        try {
            Optional<Outcome> outcome;
            while ((outcome = take()).isEmpty() && !ended && leftNs > 0) {
                leftNs = readable.awaitNanos(leftNs);
            }
            return outcome;
        } finally {
            lock.unlock();
        }
    }

    /** True once the stream has ended and every outcome was received. */
    public boolean isDone() {
        lock.lock();
        try {
            return ended && frames.unread() == 0;
        } finally {
            lock.unlock();
        }
    }

    /** Iterates as {@link #receive} does; several iterators share the outcomes. */
    @Override
    public Iterator<Outcome> iterator() {
        return new Outcomes();
    }

    private final class Outcomes implements Iterator<Outcome> {
        private Optional<Outcome> next = Optional.empty();

        @Override
        public boolean hasNext() {
            if (next.isEmpty()) {
                try {
                    next = receive();
                } catch (InterruptedException interrupted) {
                    Thread.currentThread().interrupt();
                }
            }
            return next.isPresent();
        }

        @Override
        public Outcome next() {
            if (!hasNext()) {
                throw new NoSuchElementException("the stream has ended");
            }
            Outcome outcome = next.orElseThrow();
            next = Optional.empty();
            return outcome;
        }
    }

    private Optional<Outcome> take() {
        Outcome outcome = frames.take();
        if (outcome != null) {
            sendable.signalAll();
            if (connection != null && !frames.isFull()) {
                connection.resume();
            }
            return Optional.of(outcome);
        }
        if (ended && error != null) {
            throw error;
        }
        return Optional.empty();
    }

    private final class Receiver implements Connection.Receiver {
        @Override
        public void outcomes(List<Inference.Outcome> outcomes) {
            frames.answered(outcomes, System.nanoTime());
            readable.signalAll();
            sendable.signalAll();
        }

        @Override
        public void advice(Advice advice) {
            if (followAdvice && (advice.kind() == Advice.Kind.SLOW_DOWN || advice.kind() == Advice.Kind.SPEED_UP)) {
                pace.advised(
                        System.nanoTime(), advice.periodNs(), ThreadLocalRandom.current().nextDouble());
            }
            client.execute(() -> onAdvice.accept(advice));
        }

        @Override
        public void room() {
            sendable.signalAll();
        }

        @Override
        public boolean isReading() {
            return !frames.isFull();
        }

        @Override
        public void ended(Connection over, Optional<DulyException> why) {
            if (over == newest) {
                lost(over, why.orElseGet(() -> new DulyException.ServerUnavailable("the server ended the stream")));
            }
        }
    }

    // ---- the end, and what follows a lost connection ----

    private void lost(Connection over, DulyException why) {
        boolean wasOpen = over == connection;
        connection = null;
        boolean recoverable = client.mayRecover(why);
        lostReason = (recoverable ? "connection lost: " : "stream ended: ") + why.getMessage();
        frames.cancelInFlight(System.nanoTime(), lostReason);
        if (wasOpen && System.nanoTime() - openedNs > BACKOFF_MAX_MS * 1_000_000) {
            tries = 0; // it was a good connection
        }
        if (terms == null) {
            return; // the stream never opened: whoever opens it hears of it
        }
        if (stopping) {
            end(null);
        } else if (!recoverable || tries >= client.reconnectTriesMax()) {
            end(why);
        } else {
            client.schedule(this::reconnect, backoffMs(tries++));
            sendable.signalAll();
            readable.signalAll();
        }
    }

    private void reconnect() {
        locked(() -> {
            if (stopping || client.isClosed()) {
                end(null);
                return;
            }
            Connection opening = begin();
            client.schedule(
                    () -> locked(() -> {
                        if (!opening.opened.isDone()) {
                            opening.close(noAnswer());
                        }
                    }),
                    client.openTimeout().toMillis());
        });
    }

    private void end(DulyException why) {
        if (ended) {
            return;
        }
        stopping = true;
        ended = true;
        error = why;
        client.forget(this);
        sendable.signalAll();
        readable.signalAll();
    }

    /** Declares that no more frames follow; outcomes end after the last one. */
    public void finish() {
        locked(() -> {
            if (stopping) {
                return;
            }
            stopping = true;
            sendable.signalAll();
            if (connection != null) {
                connection.finish();
            } else {
                end(null);
            }
        });
    }

    /** Ends the stream now: frames in flight are withdrawn, and outcomes that were not received are dropped. */
    @Override
    public void close() {
        locked(() -> {
            stopping = true;
            if (newest != null) {
                newest.close(new DulyException.ServerUnavailable("the stream was closed"));
            }
            frames.drop();
            end(null);
        });
    }

    private void locked(Runnable action) {
        lock.lock();
        try {
            action.run();
        } finally {
            lock.unlock();
        }
    }

    /** The pause after so many failed tries. */
    private static long backoffMs(int tries) {
        double pauseMs = Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * Math.pow(2, Math.min(tries, 10)));
        return Math.round(pauseMs * ThreadLocalRandom.current().nextDouble(0.5, 1));
    }
}
