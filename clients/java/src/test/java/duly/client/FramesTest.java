package duly.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import duly.v1.Inference;
import duly.v1.Inference.OutcomeStatus;
import duly.v1.Inference.StreamOpened;
import duly.v1.TensorOuterClass;
import java.util.List;
import org.junit.jupiter.api.Test;

class FramesTest {
    private final Frames frames = new Frames();

    private void agree(Inference.Ordering ordering) {
        frames.agreed(StreamTerms.of(StreamOpened.newBuilder()
                .setFramesInFlightMax(4)
                .setBytesInFlightMax(100)
                .setOrdering(ordering)
                .build()));
    }

    private long send(long size) {
        long frameId = frames.nextId();
        frames.sent(frameId, 0, size);
        return frameId;
    }

    private static Inference.Outcome.Builder answer(long frameId) {
        return Inference.Outcome.newBuilder().setFrameId(frameId).setStatus(OutcomeStatus.OUTCOME_STATUS_ON_TIME);
    }

    @Test
    void framesKeptBackWaitForEarlierOnesWhereTheOrderIsThatOfArrival() {
        agree(Inference.Ordering.ORDERING_ARRIVAL);
        send(1);
        frames.keepBack(frames.nextId(), 5, 1_234_567);
        assertEquals(0, frames.unread());
        frames.answered(List.of(answer(1).build()), 10);
        assertEquals(1, frames.take().frameId());
        Outcome keptBack = frames.take();
        assertEquals(Status.SUPERSEDED, keptBack.status());
        assertEquals("not sent, the server advised a period of 1.235 ms", keptBack.reason());
    }

    @Test
    void creditIsOfFramesAndOfBytesAndOneFrameMayAlwaysGo() {
        agree(Inference.Ordering.ORDERING_UNORDERED);
        assertTrue(frames.isWithinCredit(1000));
        send(90);
        assertTrue(frames.isWithinCredit(10));
        assertFalse(frames.isWithinCredit(11));
        frames.answered(List.of(answer(1).build()), 0);
        for (int nth = 0; nth < 4; nth++) {
            send(1);
        }
        assertFalse(frames.isWithinCredit(0));
    }

    @Test
    void whatTheProtocolDoesNotAllowIsTheServersFault() {
        agree(Inference.Ordering.ORDERING_UNORDERED);
        send(1);
        var short3 = TensorOuterClass.Tensor.newBuilder()
                .setName("y")
                .setDatatype(TensorOuterClass.DataType.DATA_TYPE_FP32)
                .addShape(3);
        var damaged = List.of(answer(1).addOutputs(short3).build());
        var error = assertThrows(DulyException.ProtocolError.class, () -> frames.answered(damaged, 0));
        assertTrue(error.getMessage().contains("output 'y'"), error.getMessage());
        frames.answered(List.of(answer(1).build()), 0);
        var again = List.of(answer(1).build());
        assertThrows(DulyException.ProtocolError.class, () -> frames.answered(again, 0));
    }

    @Test
    void statusesAreThoseOfTheProtocol() {
        for (Status status : Status.values()) {
            assertEquals(status, Status.of(OutcomeStatus.valueOf("OUTCOME_STATUS_" + status)));
        }
        assertEquals(Status.FAILED, Status.of(OutcomeStatus.UNRECOGNIZED));
    }

    @Test
    void whatIsHeldIsBounded() {
        agree(Inference.Ordering.ORDERING_UNORDERED);
        for (int nth = 0; nth < Frames.HELD_MAX; nth++) {
            send(1);
        }
        assertFalse(frames.hasRoom());
        frames.cancelInFlight(0, "connection lost");
        assertFalse(frames.hasRoom());
        assertEquals(Status.CANCELLED, frames.take().status());
        assertTrue(frames.hasRoom());
    }
}
