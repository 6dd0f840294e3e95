package duly.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import duly.v1.Inference.FeedbackRequest;
import duly.v1.Inference.StreamOpened;
import duly.v1.TensorOuterClass;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.LongStream;
import org.junit.jupiter.api.Test;

class FeedbackTest {
    private static List<Integer> sizes(int count, Map<String, Tensor> labels) {
        List<Feedback> items =
                LongStream.range(0, count).mapToObj(id -> Feedback.of("key", id, labels)).toList();
        List<FeedbackRequest> requests = Feedback.requests(items);
        var ids = requests.stream().flatMap(each -> each.getItemsList().stream()).mapToLong(each -> each.getFrameId());
        assertEquals(LongStream.range(0, count).boxed().toList(), ids.boxed().toList());
        return requests.stream().map(FeedbackRequest::getItemsCount).toList();
    }

    @Test
    void manyLabelsGoInSeveralMessagesInTheirOrder() {
        int most = Feedback.ITEMS_MAX;
        assertEquals(List.of(most, most, 5), sizes(2 * most + 5, Map.of("label", Tensor.of(new long[] {1}))));
        byte[] half = new byte[Feedback.BYTES_MAX / 2 - 100];
        assertEquals(List.of(2, 2, 1), sizes(5, Map.of("y", Tensor.of(half, half.length))));
        var several = new HashMap<String, Tensor>();
        for (int nth = 0; nth < 16; nth++) {
            several.put("y" + nth, Tensor.of(new long[] {1}));
        }
        int whole = Feedback.LABELS_MAX / 16;
        assertEquals(List.of(whole, 1), sizes(whole + 1, several));
        assertEquals(List.of(), sizes(0, several));
    }

    @Test
    void aClassIsANumberOrAName() {
        var items = List.of(Feedback.of("key", 7, 3).weight(2), Feedback.of("key", 8, "d\u00f6g").source("desk"));
        FeedbackRequest request = Feedback.requests(items).get(0);
        TensorOuterClass.Tensor number = request.getItems(0).getLabels(0);
        assertEquals("label", number.getName());
        assertEquals(List.of(), number.getShapeList());
        assertEquals(TensorOuterClass.DataType.DATA_TYPE_INT64, number.getDatatype());
        assertEquals(3, number.getData().asReadOnlyByteBuffer().get(0));
        assertEquals(2.0, request.getItems(0).getWeight());
        TensorOuterClass.Tensor name = request.getItems(1).getLabels(0);
        assertEquals(TensorOuterClass.DataType.DATA_TYPE_STRING, name.getDatatype());
        assertEquals(8, name.getData().size());
        assertEquals("desk", request.getItems(1).getSource());
    }

    @Test
    void whatCanBeNoLabelIsToldBeforeItIsSent() {
        assertThrows(IllegalArgumentException.class, () -> Feedback.of("", 1, 1));
        for (double weight : new double[] {0, -1, Double.NaN}) {
            assertThrows(IllegalArgumentException.class, () -> Feedback.of("key", 1, 1).weight(weight));
        }
        assertEquals(FeedbackStatus.PENDING, FeedbackStatus.of(99));
        assertEquals(FeedbackStatus.JOINED, FeedbackStatus.of(1));
    }

    @Test
    void aFrameHasTheKeyOfTheConnectionThatItWasSentOver() {
        var frames = new Frames();
        assertEquals("", frames.keyOf(1));
        for (int nth = 1; nth <= 2 * Frames.KEYS_MAX; nth++) {
            frames.agreed(StreamTerms.of(StreamOpened.newBuilder().setStreamKey("key-" + nth).build()));
            frames.nextId();
        }
        assertEquals("", frames.keyOf(Frames.KEYS_MAX));
        assertEquals("key-" + (Frames.KEYS_MAX + 1), frames.keyOf(Frames.KEYS_MAX + 1));
        assertEquals("key-" + 2 * Frames.KEYS_MAX, frames.keyOf(2 * Frames.KEYS_MAX));
    }
}
