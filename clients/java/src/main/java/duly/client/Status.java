package duly.client;

import duly.v1.Inference.OutcomeStatus;

/** How a frame ended. Only ON_TIME and LATE carry outputs. */
public enum Status {
    ON_TIME,
    /** A result, but after the deadline. */
    LATE,
    /** Never run: its deadline had passed or could no longer be met. */
    EXPIRED,
    /** Never run: a newer frame took its place, or it was kept back as the server advised. */
    SUPERSEDED,
    /** Never run: under overload other frames were chosen, or the stream was over a quota. */
    SHED,
    /** Never run: its stateful stream had a gap, and the gap policy is SKIP. */
    SKIPPED,
    /** Never run: wrong shape, type or size, undecodable, or not finite. */
    INVALID,
    /** Withdrawn by the client, its stream was closed, or the connection was lost. */
    CANCELLED,
    /** The model or the device failed on it. */
    FAILED;

    /** A status that this client does not know becomes FAILED. */
    static Status of(OutcomeStatus wire) {
        int number = wire == OutcomeStatus.UNRECOGNIZED ? 0 : wire.getNumber();
        return number >= 1 && number <= values().length ? values()[number - 1] : FAILED;
    }
}
