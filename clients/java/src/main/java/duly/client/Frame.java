package duly.client;

import java.time.Duration;
import java.time.Instant;
import java.util.Map;

/**
 * One sample from a sensor, to be sent.
 *
 * @param inputs by the names of the model's inputs; "" where it has one
 * @param capturedAt by the wall clock; null: when it is sent
 * @param budget how long after capture the result is worth having; null: the stream's
 * @param mustRun true: newer frames never supersede this one, and advice does not keep it back
 */
public record Frame(Map<String, Input> inputs, Instant capturedAt, Duration budget, boolean mustRun) {
    public Frame {
        inputs = Map.copyOf(inputs);
    }

    /** A frame for a model with one input. */
    public static Frame of(Input input) {
        return of(Map.of("", input));
    }

    /** A frame for a model with several inputs. */
    public static Frame of(Map<String, Input> inputs) {
        return new Frame(inputs, null, null, false);
    }

    /** A JPEG or PNG picture. Throws IllegalArgumentException where the bytes are neither. */
    public static Frame picture(byte[] data) {
        return of(new Encoded(pictureEncoding(data), data));
    }

    public Frame capturedAt(Instant time) {
        return new Frame(inputs, time, budget, mustRun);
    }

    public Frame budget(Duration time) {
        return new Frame(inputs, capturedAt, time, mustRun);
    }

    public Frame mustRun(boolean must) {
        return new Frame(inputs, capturedAt, budget, must);
    }

    private static Encoding pictureEncoding(byte[] data) {
        if (data.length > 3 && data[0] == (byte) 0xff && data[1] == (byte) 0xd8 && data[2] == (byte) 0xff) {
            return Encoding.JPEG;
        }
        if (data.length > 3 && data[0] == (byte) 0x89 && data[1] == 'P' && data[2] == 'N' && data[3] == 'G') {
            return Encoding.PNG;
        }
        throw new IllegalArgumentException("these " + data.length + " bytes are no JPEG or PNG");
    }
}
