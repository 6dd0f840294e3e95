package duly.client;

import com.google.protobuf.ByteString;
import duly.v1.Inference.FeedbackRequest;
import duly.v1.Inference.FrameFeedback;
import duly.v1.TensorOuterClass;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/**
 * What was right for one frame: a class by its number or its name, or what outputs should have been, by their names.
 *
 * @param streamKey {@code FrameStream.keyOf} of the frame; it holds for good, whatever becomes of the stream
 * @param weight how much it counts
 * @param source where it is from, for who judges labels by that
 */
public record Feedback(String streamKey, long frameId, Map<String, Tensor> labels, double weight, String source) {
    /** Under what a class is sent. */
    private static final String CLASS = "label";

    /** One message has labels of no more frames or bytes, and no more labels; more go in several. */
    static final int ITEMS_MAX = 1024;

    static final int BYTES_MAX = 2 << 20;
    static final int LABELS_MAX = 4096;

    /** Throws IllegalArgumentException where it can be the label of no frame. */
    public Feedback {
        labels = Map.copyOf(labels);
        if (streamKey.isEmpty()) {
            throw new IllegalArgumentException("streamKey is empty: the server keeps no frames of the model"
                    + " (duly serve --sample, --learn)");
        }
        if (!(weight > 0)) {
            throw new IllegalArgumentException("weight is " + weight + ", expected more than 0");
        }
    }

    /** The right class by its number. */
    public static Feedback of(String streamKey, long frameId, long number) {
        return of(streamKey, frameId, Map.of(CLASS, Tensor.of(new long[] {number})));
    }

    /** The right class by its name, which the model lists. */
    public static Feedback of(String streamKey, long frameId, String name) {
        return of(streamKey, frameId, Map.of(CLASS, Tensor.of(new String[] {name})));
    }

    /** What outputs should have been, in their own types and with their shapes. */
    public static Feedback of(String streamKey, long frameId, Map<String, Tensor> labels) {
        return new Feedback(streamKey, frameId, labels, 1, "");
    }

    /** The same with another weight; without, it is 1. */
    public Feedback weight(double other) {
        return new Feedback(streamKey, frameId, labels, other, source);
    }

    /** The same from another source. */
    public Feedback source(String other) {
        return new Feedback(streamKey, frameId, labels, weight, other);
    }

    /** Makes the messages with these labels, in their order. */
    static List<FeedbackRequest> requests(Iterable<Feedback> items) {
        List<FeedbackRequest> requests = new ArrayList<>();
        var request = FeedbackRequest.newBuilder();
        long bytes = 0;
        int labels = 0;
        for (Feedback item : items) {
            FrameFeedback message = item.message();
            int size = message.getSerializedSize();
            int count = message.getLabelsCount();
            boolean full = request.getItemsCount() >= ITEMS_MAX || bytes + size > BYTES_MAX || labels + count > LABELS_MAX;
            if (request.getItemsCount() > 0 && full) {
                requests.add(request.build());
                request.clear();
                bytes = 0;
                labels = 0;
            }
            request.addItems(message);
            bytes += size;
            labels += count;
        }
        if (request.getItemsCount() > 0) {
            requests.add(request.build());
        }
        return requests;
    }

    private FrameFeedback message() {
        var message = FrameFeedback.newBuilder()
                .setStreamKey(streamKey)
                .setFrameId(frameId)
                .setWeight(weight)
                .setSource(source);
        labels.forEach((name, tensor) -> message.addLabels(TensorOuterClass.Tensor.newBuilder()
                .setName(name)
                .setDatatype(tensor.datatype().wire())
                .addAllShape(tensor.shape())
                .setData(ByteString.copyFrom(tensor.data().duplicate()))));
        return message.build();
    }
}
