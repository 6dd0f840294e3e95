package duly.client;

import duly.v1.Inference.StreamAdvice;

/**
 * Something that the server advises the client to act on.
 *
 * @param periodNs SLOW_DOWN and SPEED_UP: the shortest period, on average, that can be served; 0: any
 * @param version that serves the stream; after VERSION_CHANGED the new one
 * @param reason why, for people
 */
public record Advice(Kind kind, long periodNs, String version, String reason) {
    public enum Kind {
        /** Overload: most of the frames that come faster than the period will not be served. */
        SLOW_DOWN,
        /** There is more room than the last advice said. */
        SPEED_UP,
        /** The server stops: the next stream has to open elsewhere. */
        DRAINING,
        /** Another version serves the stream from now on. */
        VERSION_CHANGED,
        /** Only a newer client would know it. */
        UNKNOWN
    }

    static Advice of(StreamAdvice wire) {
        Kind kind =
                switch (wire.getKind()) {
                    case KIND_SLOW_DOWN -> Kind.SLOW_DOWN;
                    case KIND_SPEED_UP -> Kind.SPEED_UP;
                    case KIND_DRAINING -> Kind.DRAINING;
                    case KIND_VERSION_CHANGED -> Kind.VERSION_CHANGED;
                    default -> Kind.UNKNOWN;
                };
        return new Advice(kind, wire.getPeriodNano(), wire.getVersion(), wire.getReason());
    }
}
