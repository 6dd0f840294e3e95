package duly.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import java.util.Map;

/** Makes exceptions of the statuses that end calls: by the server's reason where it gave one, else by gRPC's code. */
final class Errors {
    private interface Kind {
        DulyException make(String message, String reason, Map<String, String> metadata);
    }

    private static final Map<String, Kind> BY_REASON = Map.ofEntries(
            Map.entry("MODEL_NOT_FOUND", DulyException.ModelNotFound::new),
            Map.entry("VERSION_NOT_FOUND", DulyException.ModelNotFound::new),
            Map.entry("SERVICE_NOT_FOUND", DulyException.ModelNotFound::new),
            Map.entry("MODEL_NOT_READY", DulyException.ModelNotReady::new),
            Map.entry("FIRST_MESSAGE_NOT_OPEN", DulyException.InvalidRequest::new),
            Map.entry("STREAM_OPENED_TWICE", DulyException.InvalidRequest::new),
            Map.entry("FRAME_ID_NOT_INCREASING", DulyException.InvalidRequest::new),
            Map.entry("INVALID_OPEN", DulyException.InvalidRequest::new),
            Map.entry("INVALID_REQUEST", DulyException.InvalidRequest::new),
            Map.entry("MESSAGE_MALFORMED", DulyException.InvalidRequest::new),
            Map.entry("MESSAGE_OVERFULL", DulyException.InvalidRequest::new),
            Map.entry("ADMISSION_REFUSED", DulyException.StreamRefused::new),
            Map.entry("ADMISSION_BUSY", DulyException.ServerUnavailable::new),
            Map.entry("STREAMS_EXHAUSTED", DulyException.StreamRefused::new),
            Map.entry("CALLS_EXHAUSTED", DulyException.StreamRefused::new),
            Map.entry("DRAINING", DulyException.ServerUnavailable::new),
            Map.entry("FEEDBACK_OFF", DulyException.InvalidRequest::new),
            Map.entry("FEEDBACK_UNAVAILABLE", DulyException.ServerUnavailable::new),
            Map.entry("CLIENT_TOO_SLOW", DulyException.ClientTooSlow::new),
            Map.entry("UNAUTHENTICATED", DulyException.NotAllowed::new),
            Map.entry("NOT_PERMITTED", DulyException.NotAllowed::new),
            Map.entry("INTERNAL", DulyException.ServerFault::new));

    private Errors() {}

    /** Makes an exception of the status that ended a call to {@code target}. */
    static DulyException of(Status status, Metadata trailers, String target) {
        ErrorInfo info = errorInfo(status, trailers);
        String reason = info.getReason();
        Kind kind = BY_REASON.getOrDefault(reason, byCode(status.getCode()));
        String text = status.getDescription() == null ? status.getCode().name() : status.getDescription();
        for (Throwable cause = status.getCause(); cause != null && reason.isEmpty(); cause = cause.getCause()) {
            if (cause.getMessage() != null && !text.contains(cause.getMessage())) {
                text += ": " + cause.getMessage();
            }
        }
        if (status.getCode() == Status.Code.UNIMPLEMENTED) {
            text = target + " is no duly server, or an older one: " + text;
        }
        DulyException made = kind.make(text, reason, info.getMetadataMap());
        if (made instanceof DulyException.ServerUnavailable && reason.isEmpty()) {
            return new DulyException.ServerUnavailable("no answer from " + target + ": " + text);
        }
        return made;
    }

    private static Kind byCode(Status.Code code) {
        return switch (code) {
            // A server that stops without grace cancels its calls; those that the client cancels never get here.
            case UNAVAILABLE, CANCELLED, DEADLINE_EXCEEDED -> DulyException.ServerUnavailable::new;
            case NOT_FOUND -> DulyException.ModelNotFound::new;
            case FAILED_PRECONDITION -> DulyException.ModelNotReady::new;
            case RESOURCE_EXHAUSTED -> DulyException.StreamRefused::new;
            case INVALID_ARGUMENT, OUT_OF_RANGE -> DulyException.InvalidRequest::new;
            case UNAUTHENTICATED, PERMISSION_DENIED -> DulyException.NotAllowed::new;
            case INTERNAL, UNKNOWN, DATA_LOSS -> DulyException.ServerFault::new;
            default -> (message, reason, metadata) -> new DulyException(message, reason, metadata, false);
        };
    }

    private static ErrorInfo errorInfo(Status status, Metadata trailers) {
        try {
            for (Any detail : StatusProto.fromStatusAndTrailers(status, trailers).getDetailsList()) {
                if (detail.is(ErrorInfo.class)) {
                    return detail.unpack(ErrorInfo.class);
                }
            }
        } catch (IllegalArgumentException | InvalidProtocolBufferException error) {
            return ErrorInfo.getDefaultInstance(); // the status has its code and message all the same
        }
        return ErrorInfo.getDefaultInstance();
    }
}
