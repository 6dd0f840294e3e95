package duly.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.OptionalLong;
import java.util.concurrent.CompletableFuture;
import java.util.stream.LongStream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Streams to a real server over a UNIX socket. */
class UnixStreamsTest {
    @TempDir
    static Path folder;

    private static Server server;
    private static Client client;

    private static final Frame FRAME = Frame.of(Tensor.of(new float[] {1, 2, 3, 4}));

    @BeforeAll
    static void start() throws Exception {
        server = new Server(folder, List.of("--listen", "unix:" + folder + "/duly.sock"));
        client = Client.of(server.address);
    }

    @AfterAll
    static void stop() throws Exception {
        if (client != null) {
            client.close();
            server.close();
        }
    }

    private static StreamOptions options() {
        return StreamOptions.of("double").budget(Duration.ofMinutes(1)).backlog(StreamOptions.Backlog.ALL);
    }

    @Test
    void eachFrameHasItsOutcomeAndTwoIteratorsShareThem() throws Exception {
        try (FrameStream stream = client.open(options().ordering(StreamOptions.Ordering.ARRIVAL))) {
            float[] values = new float[4];
            for (int nth = 1; nth <= 100; nth++) {
                java.util.Arrays.fill(values, nth);
                stream.send(Frame.of(Tensor.of(values, 4)));
            }
            List<Long> ids = new ArrayList<>();
            for (Outcome outcome : stream) {
                assertEquals(2 * outcome.frameId(), outcome.outputs().get("y").floats()[0]);
                ids.add(outcome.frameId());
                if (ids.size() == 10) {
                    break;
                }
            }
            stream.finish();
            stream.forEach(outcome -> ids.add(outcome.frameId()));
            assertEquals(LongStream.rangeClosed(1, 100).boxed().toList(), ids);
            assertEquals(Optional.empty(), stream.receive());
            assertTrue(stream.isDone());
        }
    }

    @Test
    void nothingIsLostWhileNobodyReadsAndWhatIsHeldIsBounded() throws Exception {
        try (FrameStream stream = client.open(options())) {
            int credit = stream.opened().framesInFlightMax();
            List<Long> sent = new ArrayList<>();
            // Ten times the credit: had nobody stopped reading from the wire, all of them would find room.
            for (int round = 0; sent.size() < 10 * credit && round < 200; round++) {
                for (OptionalLong id; (id = stream.trySend(FRAME)).isPresent(); ) {
                    sent.add(id.getAsLong());
                }
                Thread.sleep(1);
            }
            assertTrue(sent.size() < 10 * credit);
            stream.finish();
            List<Long> answered = new ArrayList<>();
            stream.forEach(outcome -> answered.add(outcome.frameId()));
            answered.sort(null);
            assertEquals(sent, answered);
        }
    }

    @Test
    void aFrameThatTheServerCouldNotReadHarmsNobody() throws Exception {
        FrameStream stream = client.open(options());
        var huge = Frame.of(Tensor.of(new byte[(int) stream.opened().messageBytesMax()]));
        assertThrows(IllegalArgumentException.class, () -> stream.send(huge));
        stream.send(FRAME);
        assertEquals(1, stream.receive().orElseThrow().frameId());
        assertEquals(Optional.empty(), stream.poll(Duration.ofMillis(1)));
        stream.close();
        assertThrows(IllegalStateException.class, () -> stream.send(FRAME));
    }

    @Test
    void closingTheClientEndsWhatWaitsForOutcomes() throws Exception {
        Client other = Client.of(server.address);
        FrameStream stream = other.open(options());
        CompletableFuture<Optional<Outcome>> waiting = CompletableFuture.supplyAsync(() -> {
            try {
                return stream.receive();
            } catch (InterruptedException error) {
                throw new IllegalStateException(error);
            }
        });
        other.close();
        assertEquals(Optional.empty(), waiting.get());
        assertThrows(IllegalStateException.class, () -> other.open(options()));
    }
}
