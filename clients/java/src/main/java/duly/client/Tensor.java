package duly.client;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.List;
import java.util.stream.IntStream;
import java.util.stream.LongStream;

/**
 * An array with its shape, which has no batch dimension. An empty shape in a frame stands for the model's own.
 *
 * @param data elements, row-major, little-endian; read only
 */
public record Tensor(DataType datatype, List<Long> shape, ByteBuffer data) implements Input {
    /** Throws IllegalArgumentException where the data does not fill the shape. */
    public Tensor {
        shape = List.copyOf(shape);
        data = data.asReadOnlyBuffer().order(ByteOrder.LITTLE_ENDIAN);
        long elements = shape.stream().reduce(1L, Math::multiplyExact);
        if (!shape.isEmpty() && elements * datatype.bytes() != data.remaining()) {
            throw new IllegalArgumentException(
                    data.remaining() + " bytes do not fill " + shape + " elements of " + datatype);
        }
    }

    /** Makes an FP32 tensor of a copy; no extents: of the model's own shape. */
    public static Tensor of(float[] values, long... shape) {
        ByteBuffer data = bytes(values.length, Float.BYTES);
        data.asFloatBuffer().put(values);
        return new Tensor(DataType.FP32, LongStream.of(shape).boxed().toList(), data);
    }

    /** Makes an INT32 tensor of a copy; no extents: of the model's own shape. */
    public static Tensor of(int[] values, long... shape) {
        ByteBuffer data = bytes(values.length, Integer.BYTES);
        data.asIntBuffer().put(values);
        return new Tensor(DataType.INT32, LongStream.of(shape).boxed().toList(), data);
    }

    /** Makes an INT64 tensor of a copy; no extents: of the model's own shape. */
    public static Tensor of(long[] values, long... shape) {
        ByteBuffer data = bytes(values.length, Long.BYTES);
        data.asLongBuffer().put(values);
        return new Tensor(DataType.INT64, LongStream.of(shape).boxed().toList(), data);
    }

    /**
     * Makes a UINT8 tensor over the array, which must not change until it is sent; no extents: of the model's own
     * shape.
     */
    public static Tensor of(byte[] values, long... shape) {
        return new Tensor(DataType.UINT8, LongStream.of(shape).boxed().toList(), ByteBuffer.wrap(values));
    }

    private static ByteBuffer bytes(int elements, int size) {
        return ByteBuffer.allocate(Math.multiplyExact(elements, size)).order(ByteOrder.LITTLE_ENDIAN);
    }

    /** Elements, little-endian, in a buffer of its own position. */
    @Override
    public ByteBuffer data() {
        return data.duplicate().order(ByteOrder.LITTLE_ENDIAN);
    }

    /** Number of elements. */
    public int size() {
        return data.remaining() / datatype.bytes();
    }

    /** Copies the elements. Throws IllegalStateException where they are not FP32. */
    public float[] floats() {
        if (datatype != DataType.FP32) {
            throw new IllegalStateException("the elements are " + datatype + ", not FP32");
        }
        float[] values = new float[size()];
        data().asFloatBuffer().get(values);
        return values;
    }

    /** Copies the elements of any type as the nearest double; FP16 is not known to Java 17. */
    public double[] doubles() {
        ByteBuffer bytes = data();
        int at = bytes.position();
        return IntStream.range(0, size())
                .mapToDouble(nth -> element(bytes, at + nth * datatype.bytes()))
                .toArray();
    }

    private double element(ByteBuffer bytes, int at) {
        return switch (datatype) {
            case BOOL, UINT8 -> Byte.toUnsignedInt(bytes.get(at));
            case UINT16 -> Short.toUnsignedInt(bytes.getShort(at));
            case UINT32 -> Integer.toUnsignedLong(bytes.getInt(at));
            case UINT64 -> unsigned(bytes.getLong(at));
            case INT8 -> bytes.get(at);
            case INT16 -> bytes.getShort(at);
            case INT32 -> bytes.getInt(at);
            case INT64 -> bytes.getLong(at);
            case FP32 -> bytes.getFloat(at);
            case FP64 -> bytes.getDouble(at);
            case FP16 -> throw new IllegalStateException("read FP16 from data()");
        };
    }

    private static double unsigned(long value) {
        return value >= 0 ? value : (value >>> 1) * 2.0 + (value & 1);
    }
}
