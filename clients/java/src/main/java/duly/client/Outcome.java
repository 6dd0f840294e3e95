package duly.client;

import duly.v1.Inference;
import duly.v1.TensorOuterClass;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * The one terminal answer to a frame.
 *
 * @param latencyNs time from capture to the arrival of the outcome, on the client's clock
 * @param outputs by name; none but with ON_TIME and LATE
 * @param version that ran on the frame; "": none did
 * @param variant that ran on the frame; "": none did
 * @param batchSize number of frames in the batch that the frame ran in; 0: it did not run
 * @param slackNs deadline minus the time at which the server sent the outcome; negative: too late
 * @param reason why there is no result in time, for people; "" where there is one
 * @param timing times on the server
 * @param guards names of the model's guards that found something on the frame, with a result and with INVALID
 */
public record Outcome(
        long frameId,
        Status status,
        long latencyNs,
        Map<String, Tensor> outputs,
        String version,
        String variant,
        int batchSize,
        long slackNs,
        String reason,
        Timing timing,
        List<String> guards) {
    /** True where there is a result: ON_TIME or LATE. */
    public boolean ok() {
        return status == Status.ON_TIME || status == Status.LATE;
    }

    /** Makes an outcome from its message. Throws ProtocolError where an output's bytes do not fill its shape. */
    static Outcome of(Inference.Outcome wire, long latencyNs) {
        Map<String, Tensor> outputs = new LinkedHashMap<>();
        for (TensorOuterClass.Tensor output : wire.getOutputsList()) {
            DataType datatype = DataType.of(output.getDatatype(), output.getName());
            try {
                outputs.put(
                        output.getName(),
                        new Tensor(datatype, output.getShapeList(), output.getData().asReadOnlyByteBuffer()));
            } catch (IllegalArgumentException | ArithmeticException error) {
                throw new DulyException.ProtocolError("output '" + output.getName() + "': " + error.getMessage());
            }
        }
        return new Outcome(
                wire.getFrameId(),
                Status.of(wire.getStatus()),
                latencyNs,
                outputs,
                wire.getVersion(),
                wire.getVariant(),
                wire.getBatchSize(),
                wire.getSlackNano(),
                wire.getReason(),
                Timing.of(wire.getTiming()),
                List.copyOf(wire.getGuardsList()));
    }

    /** Makes an outcome that the server did not give. */
    static Outcome here(long frameId, Status status, long latencyNs, String reason) {
        return new Outcome(frameId, status, latencyNs, Map.of(), "", "", 0, 0, reason, Timing.NONE, List.of());
    }
}
