package duly.client;

import duly.v1.Inference.StreamOpened;
import java.util.List;

/**
 * Terms that were agreed when the stream opened. Policies are named as the protocol names them, without its prefixes.
 *
 * @param streamId the number by which the server's logs call the stream
 * @param streamKey by what labels name the stream; "": the server keeps no frames of the model
 * @param variants variants that may serve the stream, the most accurate first
 * @param gap gap policy of a stateful model; otherwise UNSPECIFIED
 * @param plannedLatencyNs planned execution time of a batch of one: no result comes sooner
 * @param predictedLatencyNs time from receipt to result while the lanes are as busy as planned; 0: not predicted
 * @param utilisation share of the fullest lanes' time that is asked for; 1: all of it, 0: no period was stated
 * @param framesInFlightMax frames that may be unanswered at any time; further ones are SHED
 * @param messageBytesMax largest message that the server reads
 * @param admissionWarning why the server would rather not have opened the stream; "": nothing speaks against it
 */
public record StreamTerms(
        long streamId,
        String streamKey,
        String version,
        List<TensorSpec> inputs,
        List<TensorSpec> outputs,
        List<String> variants,
        String streamClass,
        String backlog,
        int backlogFrames,
        String ordering,
        String gap,
        long defaultBudgetNs,
        long plannedLatencyNs,
        long predictedLatencyNs,
        double utilisation,
        int framesInFlightMax,
        long bytesInFlightMax,
        long messageBytesMax,
        String admissionWarning) {
    static StreamTerms of(StreamOpened wire) {
        return new StreamTerms(
                wire.getStreamId(),
                wire.getStreamKey(),
                wire.getVersion(),
                wire.getInputsList().stream().map(TensorSpec::of).toList(),
                wire.getOutputsList().stream().map(TensorSpec::of).toList(),
                List.copyOf(wire.getVariantsList()),
                named(wire.getStreamClass(), "STREAM_CLASS_"),
                named(wire.getBacklogPolicy(), "BACKLOG_POLICY_"),
                wire.getBacklogFrames(),
                named(wire.getOrdering(), "ORDERING_"),
                named(wire.getGapPolicy(), "GAP_POLICY_"),
                wire.getDefaultBudgetNano(),
                wire.getPlannedLatencyNano(),
                wire.getPredictedLatencyNano(),
                wire.getUtilisation(),
                wire.getFramesInFlightMax(),
                wire.getBytesInFlightMax(),
                wire.getMessageBytesMax(),
                wire.getAdmissionWarning());
    }

    private static String named(Enum<?> value, String prefix) {
        return value.name().startsWith(prefix) ? value.name().substring(prefix.length()) : value.name();
    }
}
