/**
 * The Java client of duly: frames in, exactly one outcome for each frame out.
 *
 * <p>{@link duly.client.Client} is one connection to a server, {@link duly.client.FrameStream} one sensor's stream over
 * it. Times are {@link java.time.Duration} and {@link java.time.Instant} where the application states them, and
 * nanoseconds where it is told them.
 */
package duly.client;
