package duly.client;

import duly.v1.TensorOuterClass.EncodedFormat;
import java.util.Optional;

/** Formats of encoded payloads. */
public enum Encoding {
    /** One picture, baseline or progressive. */
    JPEG(EncodedFormat.ENCODED_FORMAT_JPEG),
    /** One picture. */
    PNG(EncodedFormat.ENCODED_FORMAT_PNG),
    /** Raw PCM samples, signed 16 bits, little-endian, one channel. */
    PCM_S16LE(EncodedFormat.ENCODED_FORMAT_PCM_S16LE);

    final EncodedFormat wire;

    Encoding(EncodedFormat wire) {
        this.wire = wire;
    }

    /** Empty where only a newer client would know it. */
    static Optional<Encoding> of(EncodedFormat wire) {
        return Optional.ofNullable(
                switch (wire) {
                    case ENCODED_FORMAT_JPEG -> JPEG;
                    case ENCODED_FORMAT_PNG -> PNG;
                    case ENCODED_FORMAT_PCM_S16LE -> PCM_S16LE;
                    default -> null;
                });
    }
}
