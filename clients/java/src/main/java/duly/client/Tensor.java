package duly.client;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.IntStream;
import java.util.stream.LongStream;

/**
 * An array with its shape, which has no batch dimension. An empty shape in a frame stands for the model's own.
 *
 * @param data elements, row-major, little-endian; of STRING each behind its length, an int; read only
 */
public record Tensor(DataType datatype, List<Long> shape, ByteBuffer data) implements Input {
    private static final int LENGTH_BYTES = Integer.BYTES;

    /** Throws IllegalArgumentException where the data does not fill the shape. */
    public Tensor {
        shape = List.copyOf(shape);
        data = data.asReadOnlyBuffer().order(ByteOrder.LITTLE_ENDIAN);
        long elements = shape.stream().reduce(1L, Math::multiplyExact);
        if (datatype == DataType.STRING) {
            int texts = count(data);
            if (texts != elements && !shape.isEmpty()) {
                throw new IllegalArgumentException(texts + " texts do not fill " + shape);
            }
        } else if (!shape.isEmpty() && elements * datatype.bytes() != data.remaining()) {
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

    /** Makes a STRING tensor; no extents: of the model's own shape. */
    public static Tensor of(String[] values, long... shape) {
        var texts = new ArrayList<byte[]>();
        int size = 0;
        for (String value : values) {
            byte[] text = value.getBytes(StandardCharsets.UTF_8);
            texts.add(text);
            size = Math.addExact(size, LENGTH_BYTES + text.length);
        }
        ByteBuffer data = bytes(size, 1);
        texts.forEach(text -> data.putInt(text.length).put(text));
        return new Tensor(DataType.STRING, LongStream.of(shape).boxed().toList(), data.flip());
    }

    /**
     * Makes a BF16 tensor, for which the values are rounded to the nearest, half to even; no extents: of the model's own
     * shape.
     */
    public static Tensor bfloat16(float[] values, long... shape) {
        ByteBuffer data = bytes(values.length, DataType.BF16.bytes());
        for (float value : values) {
            int bits = Float.floatToIntBits(value); // all NaN become one that is not rounded to an infinity
            int upper = Float.isNaN(value) ? bits >>> 16 : bits + 0x7fff + (bits >>> 16 & 1) >>> 16;
            data.putShort((short) upper);
        }
        return new Tensor(DataType.BF16, LongStream.of(shape).boxed().toList(), data.flip());
    }

    /** Counts texts. Throws IllegalArgumentException where one ends behind the data. */
    private static int count(ByteBuffer data) {
        int texts = 0;
        for (int at = data.position(); at < data.limit(); texts++) {
            long left = (long) data.limit() - at - LENGTH_BYTES;
            if (left < 0 || left < Integer.toUnsignedLong(data.getInt(at))) {
                throw new IllegalArgumentException(
                        "text " + texts + " ends behind the " + data.remaining() + " bytes of all");
            }
            at += LENGTH_BYTES + data.getInt(at);
        }
        return texts;
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
        return datatype == DataType.STRING ? count(data) : data.remaining() / datatype.bytes();
    }

    /** Copies the elements. Throws IllegalStateException where they are not STRING, or one is no UTF-8. */
    public List<String> strings() {
        if (datatype != DataType.STRING) {
            throw new IllegalStateException("the elements are " + datatype + ", not STRING");
        }
        var texts = new ArrayList<String>();
        for (ByteBuffer left = data(); left.hasRemaining(); ) {
            int length = left.getInt();
            ByteBuffer text = left.slice(left.position(), length);
            left.position(left.position() + length);
            try {
                texts.add(StandardCharsets.UTF_8.newDecoder().decode(text).toString());
            } catch (CharacterCodingException error) {
                throw new IllegalStateException("text " + texts.size() + " is no UTF-8", error);
            }
        }
        return texts;
    }

    /** Copies the elements. Throws IllegalStateException where they are neither FP32 nor BF16. */
    public float[] floats() {
        if (datatype == DataType.BF16) {
            float[] values = new float[size()];
            ByteBuffer bits = data();
            for (int nth = 0; nth < values.length; nth++) {
                values[nth] = Float.intBitsToFloat(bits.getShort() << 16);
            }
            return values;
        }
        if (datatype != DataType.FP32) {
            throw new IllegalStateException("the elements are " + datatype + ", not FP32");
        }
        float[] values = new float[size()];
        data().asFloatBuffer().get(values);
        return values;
    }

    /** Copies numbers of any type as the nearest double; FP16 is not known to Java 17. */
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
            case BF16 -> Float.intBitsToFloat(bytes.getShort(at) << 16);
            case FP16 -> throw new IllegalStateException("read FP16 from data()");
            case STRING -> throw new IllegalStateException("the elements are text, see strings()");
        };
    }

    private static double unsigned(long value) {
        return value >= 0 ? value : (value >>> 1) * 2.0 + (value & 1);
    }
}
