package duly.client;

import duly.v1.Inference;

/**
 * Times of one frame on the server, ns since its receipt unless stated otherwise; 0: it did not get there.
 *
 * @param receivedUnixNs server wall clock at receipt, ns since 1970
 * @param dispatchedNs when its batch was given to a worker
 * @param startedNs when the worker began with the batch
 * @param finishedNs when the worker was done with the batch
 * @param sentNs when the outcome was handed to the transport
 * @param captureToReceiptNs time from capture to receipt; 0 where the clocks are not related
 * @param clockUncertaintyNs uncertainty of that; 0 where the clocks are not related
 */
public record Timing(
        long receivedUnixNs,
        long dispatchedNs,
        long startedNs,
        long finishedNs,
        long sentNs,
        long captureToReceiptNs,
        long clockUncertaintyNs) {
    static final Timing NONE = new Timing(0, 0, 0, 0, 0, 0, 0);

    static Timing of(Inference.Timing wire) {
        return new Timing(
                wire.getReceivedUnixNano(),
                wire.getDispatchedNano(),
                wire.getStartedNano(),
                wire.getFinishedNano(),
                wire.getSentNano(),
                wire.getCaptureToReceiptNano(),
                wire.getClockUncertaintyNano());
    }
}
