package duly.client;

import duly.v1.Inference;
import duly.v1.Inference.OpenStream;
import java.time.Duration;
import java.util.List;
import java.util.function.Consumer;

/** What is wanted of a stream. What is not stated is as the model's author set it. */
public final class StreamOptions {
    /** Criticality: frames of more critical streams run first and are shed last. */
    public enum StreamClass {
        CRITICAL,
        STANDARD,
        BEST_EFFORT
    }

    /** What waits while the model is busy. */
    public enum Backlog {
        /** One frame; a newer one supersedes it. */
        LATEST,
        /** The newest few. */
        KEEP_LAST,
        /** Every frame. */
        ALL
    }

    /** The order of outcomes. */
    public enum Ordering {
        /** That of the frames. */
        ARRIVAL,
        /** Each as soon as it is known. */
        UNORDERED,
        /** Each as soon as it is known, but no result older than one already delivered. */
        MONOTONIC
    }

    /** What a stateful model does after frames that were not run. */
    public enum Gap {
        CONTINUE,
        RESET,
        SKIP
    }

    private final OpenStream.Builder open = OpenStream.newBuilder();
    private Consumer<Advice> onAdvice = advice -> {};
    private boolean followAdvice;

    private StreamOptions(String model) {
        open.setModel(model);
    }

    /** Options of a stream to this model. */
    public static StreamOptions of(String model) {
        return new StreamOptions(model);
    }

    /** How long after capture a result is worth having. */
    public StreamOptions budget(Duration budget) {
        open.setDefaultBudgetNano(nanoseconds("budget", budget));
        return this;
    }

    /** Name for the server's logs. */
    public StreamOptions name(String name) {
        open.setStreamName(name);
        return this;
    }

    public StreamOptions version(String version) {
        open.setVersion(version);
        return this;
    }

    public StreamOptions streamClass(StreamClass streamClass) {
        open.setStreamClass(Inference.StreamClass.valueOf("STREAM_CLASS_" + streamClass));
        return this;
    }

    public StreamOptions backlog(Backlog backlog) {
        open.setBacklogPolicy(Inference.BacklogPolicy.valueOf("BACKLOG_POLICY_" + backlog));
        return this;
    }

    /** With KEEP_LAST: how many frames wait. */
    public StreamOptions backlogFrames(int frames) {
        open.setBacklogFrames(frames);
        return this;
    }

    public StreamOptions ordering(Ordering ordering) {
        open.setOrdering(Inference.Ordering.valueOf("ORDERING_" + ordering));
        return this;
    }

    /** Time between frames. A stream that states it is let in only if it fits. */
    public StreamOptions period(Duration period) {
        open.setExpectedPeriodNano(nanoseconds("period", period));
        return this;
    }

    /** Names of the outputs wanted; not stated: all. */
    public StreamOptions outputs(List<String> outputs) {
        open.clearOutputs().addAllOutputs(outputs);
        return this;
    }

    public StreamOptions gap(Gap gap) {
        open.setGapPolicy(Inference.GapPolicy.valueOf("GAP_POLICY_" + gap));
        return this;
    }

    /** The least accurate variant that will do. */
    public StreamOptions variantLowest(String variant) {
        open.setVariantLowest(variant);
        return this;
    }

    /** Of any {@code window} consecutive frames so many shall be on time, overload or not. */
    public StreamOptions floor(int frames, int window) {
        open.setFloor(Inference.OnTimeFloor.newBuilder().setFrames(frames).setWindow(window));
        return this;
    }

    /** Called with each advice of the server, in a thread of the client's, which should not be held up. */
    public StreamOptions onAdvice(Consumer<Advice> listener) {
        onAdvice = listener;
        return this;
    }

    /** True: frames that come faster than the server advises are SUPERSEDED here and not sent, unless they must run. */
    public StreamOptions followAdvice(boolean follow) {
        followAdvice = follow;
        return this;
    }

    OpenStream request() {
        return open.build();
    }

    Consumer<Advice> onAdvice() {
        return onAdvice;
    }

    boolean followAdvice() {
        return followAdvice;
    }

    /** Throws IllegalArgumentException where no time is that long. */
    static long nanoseconds(String argument, Duration time) {
        if (time.isNegative() || time.isZero() || time.compareTo(Duration.ofNanos(Long.MAX_VALUE)) > 0) {
            throw new IllegalArgumentException(argument + ": expected more than 0 and less than 292 years, not " + time);
        }
        return time.toNanos();
    }
}
