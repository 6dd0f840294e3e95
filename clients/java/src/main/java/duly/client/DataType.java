package duly.client;

import duly.v1.TensorOuterClass;

/** Element types of tensors. */
public enum DataType {
    BOOL(1),
    UINT8(1),
    UINT16(2),
    UINT32(4),
    UINT64(8),
    INT8(1),
    INT16(2),
    INT32(4),
    INT64(8),
    /** IEEE 754 binary16. */
    FP16(2),
    FP32(4),
    FP64(8),
    /** Text: each element of a length of its own. */
    STRING(0),
    /** The upper half of FP32. */
    BF16(2);

    private final int bytes;

    DataType(int bytes) {
        this.bytes = bytes;
    }

    /** Size of an element, bytes; 0 where elements differ in it. */
    public int bytes() {
        return bytes;
    }

    TensorOuterClass.DataType wire() {
        return TensorOuterClass.DataType.valueOf("DATA_TYPE_" + name());
    }

    /** Throws ProtocolError where only a newer client would know the type. */
    static DataType of(TensorOuterClass.DataType wire, String tensor) {
        for (DataType each : values()) {
            if (each.wire() == wire) {
                return each;
            }
        }
        throw new DulyException.ProtocolError(
                "tensor '" + tensor + "' has an element type that this client does not know: " + wire);
    }
}
