package duly.client;

import duly.v1.TensorOuterClass;
import java.util.List;
import java.util.Optional;

/**
 * What an input takes or an output gives, for one frame.
 *
 * @param shape extent of each dimension, without the batch dimension; -1: any
 * @param encodings inputs: formats that are accepted in place of an array
 * @param labels outputs: names of the classes that an index stands for; empty: not stated
 * @param sampleRateHz inputs that take sound: the sample rate; 0: no sound
 * @param finite inputs: NaN and infinities make a frame INVALID
 */
public record TensorSpec(
        String name,
        DataType datatype,
        List<Long> shape,
        List<Encoding> encodings,
        List<String> labels,
        int sampleRateHz,
        boolean finite) {
    static TensorSpec of(TensorOuterClass.TensorSpec wire) {
        return new TensorSpec(
                wire.getName(),
                DataType.of(wire.getDatatype(), wire.getName()),
                List.copyOf(wire.getShapeList()),
                wire.getEncodedFormatsList().stream().map(Encoding::of).flatMap(Optional::stream).toList(),
                List.copyOf(wire.getLabelsList()),
                wire.getSampleRateHz(),
                wire.getFinite());
    }
}
