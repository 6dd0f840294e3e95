package duly.client;

/** What became of the labels of one frame. */
public enum FeedbackStatus {
    /** They are on the server's disk, together with the frame. */
    JOINED,
    /** The frame was not kept, or is not any more, or is none of this caller's. */
    UNKNOWN_FRAME,
    /** They are none that the frame could have. */
    INVALID,
    /** They could not be written: send them again later. */
    NOT_KEPT,
    /** What became of them was not known in time: send them again where it matters. */
    PENDING;

    /** A status that this client does not know becomes PENDING. */
    static FeedbackStatus of(int number) {
        return number >= 1 && number <= values().length ? values()[number - 1] : PENDING;
    }
}
