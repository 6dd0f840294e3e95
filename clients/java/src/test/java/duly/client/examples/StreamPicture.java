package duly.client.examples;

import duly.client.Client;
import duly.client.DulyException;
import duly.client.Frame;
import duly.client.FrameStream;
import duly.client.Outcome;
import duly.client.StreamOptions;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.stream.Collectors;

/** Streams a picture to a server, again and again, and shows what becomes of each frame. */
public final class StreamPicture {
    private static final long PERIOD_MS = 33;

    private StreamPicture() {}

    public static void main(String[] arguments) throws IOException, InterruptedException {
        if (arguments.length < 3) {
            System.err.println("usage: StreamPicture HOST:PORT MODEL PICTURE.jpg [FRAMES]");
            System.exit(2);
        }
        byte[] picture = Files.readAllBytes(Path.of(arguments[2]));
        int count = arguments.length > 3 ? Integer.parseInt(arguments[3]) : 30;
        var options = StreamOptions.of(arguments[1])
                .budget(Duration.ofMillis(250))
                .followAdvice(true)
                .onAdvice(advice -> System.out.println("advice: " + advice.kind() + ", " + advice.reason()));
        try (Client client = Client.of(arguments[0]);
                FrameStream stream = client.open(options)) {
            var showing = new Thread(() -> show(stream));
            showing.start();
            for (int nth = 0; nth < count; nth++) {
                stream.send(Frame.picture(picture));
                Thread.sleep(PERIOD_MS);
            }
            stream.finish();
            showing.join();
        } catch (DulyException error) {
            System.err.println(error.getClass().getSimpleName() + " " + error.reason() + ": " + error.getMessage());
            System.exit(1);
        }
    }

    private static void show(FrameStream stream) {
        for (Outcome outcome : stream) {
            String result = outcome.outputs().entrySet().stream()
                    .map(output -> output.getKey() + " " + output.getValue().datatype() + output.getValue().shape())
                    .collect(Collectors.joining(" "));
            System.out.printf(
                    "frame %d: %s  %.1f ms  %s%n",
                    outcome.frameId(),
                    outcome.status(),
                    outcome.latencyNs() / 1e6,
                    outcome.ok() ? result : outcome.reason());
        }
    }
}
