package duly.client;

import java.util.Map;

/**
 * A call ended with an error: the server's own message, its stable reason, and its metadata. A frame that gets no
 * result is no error: it is an outcome. Misuse by the caller is an IllegalArgumentException or IllegalStateException.
 */
public class DulyException extends RuntimeException {
    private static final long serialVersionUID = 1;

    private final String reason;
    private final transient Map<String, String> metadata;
    private final boolean recoverable;

    DulyException(String message, String reason, Map<String, String> metadata, boolean recoverable) {
        super(message);
        this.reason = reason;
        this.metadata = Map.copyOf(metadata);
        this.recoverable = recoverable;
    }

    /** The server's stable name for the error; "" where it gave none. */
    public String reason() {
        return reason;
    }

    /** What the server's ErrorInfo says beside its reason, such as what would fit. */
    public Map<String, String> metadata() {
        return metadata == null ? Map.of() : metadata;
    }

    /** True where opening the same stream again a little later may succeed. */
    public boolean recoverable() {
        return recoverable;
    }

    /** No server answers, the connection was lost, or the server is draining. */
    public static final class ServerUnavailable extends DulyException {
        private static final long serialVersionUID = 1;

        ServerUnavailable(String message) {
            this(message, "", Map.of());
        }

        ServerUnavailable(String message, String reason, Map<String, String> metadata) {
            super(message, reason, metadata, true);
        }
    }

    /** The repository has no such model or version. */
    public static final class ModelNotFound extends DulyException {
        private static final long serialVersionUID = 1;

        ModelNotFound(String message, String reason, Map<String, String> metadata) {
            super(message, reason, metadata, false);
        }
    }

    /** The model is known but not loaded, or is loading. */
    public static final class ModelNotReady extends DulyException {
        private static final long serialVersionUID = 1;

        ModelNotReady(String message, String reason, Map<String, String> metadata) {
            super(message, reason, metadata, true);
        }
    }

    /**
     * The server has no capacity for the stream. The metadata may say what would fit, each alone: "period_nano" is the
     * shortest period, "budget_nano" the smallest budget, "variant" the most accurate variant as the lowest.
     */
    public static final class StreamRefused extends DulyException {
        private static final long serialVersionUID = 1;

        StreamRefused(String message, String reason, Map<String, String> metadata) {
            super(message, reason, metadata, true);
        }
    }

    /** The application did not read its outcomes in time. */
    public static final class ClientTooSlow extends DulyException {
        private static final long serialVersionUID = 1;

        ClientTooSlow(String message, String reason, Map<String, String> metadata) {
            super(message, reason, metadata, false);
        }
    }

    /** The server understood the request and found it wrong. */
    public static final class InvalidRequest extends DulyException {
        private static final long serialVersionUID = 1;

        InvalidRequest(String message, String reason, Map<String, String> metadata) {
            super(message, reason, metadata, false);
        }
    }

    /** The credentials are missing or do not permit the call. */
    public static final class NotAllowed extends DulyException {
        private static final long serialVersionUID = 1;

        NotAllowed(String message, String reason, Map<String, String> metadata) {
            super(message, reason, metadata, false);
        }
    }

    /** The server failed by a fault of its own. */
    public static final class ServerFault extends DulyException {
        private static final long serialVersionUID = 1;

        ServerFault(String message, String reason, Map<String, String> metadata) {
            super(message, reason, metadata, false);
        }
    }

    /** The server sent what the protocol does not allow. */
    public static final class ProtocolError extends DulyException {
        private static final long serialVersionUID = 1;

        ProtocolError(String message) {
            super(message, "", Map.of(), false);
        }
    }
}
