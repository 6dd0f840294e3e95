package duly.client;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.grpc.Metadata;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.function.Executable;
import org.junit.jupiter.api.io.TempDir;

/** What is said to whoever states what cannot be, before anything is sent. */
class WordsTest {
    @TempDir
    Path folder;

    private static String said(Executable action) {
        return assertThrows(IllegalArgumentException.class, action).getMessage();
    }

    @Test
    void targetsThatCanBeNoServers() {
        for (String target : new String[] {"http://host:1", "host", "host:0", "host:70000", "[::1]", ":8500", ""}) {
            assertTrue(said(() -> Client.of(target)).contains("expected HOST:PORT"), target);
        }
        for (String target : new String[] {"host:1", "[::1]:65535", "dns:host:1"}) {
            Client.of(target).close();
        }
    }

    @Test
    void aTokenDoesNotLeaveTheMachineInClearText() {
        assertTrue(said(() -> Client.builder("robot.local:8500").token("t").build()).contains("in clear text"));
        Client.builder("robot.local:8500").token("t").tokenInClearText(true).build().close();
        for (String target : new String[] {"localhost:1", "127.1.2.3:1", "[::1]:1", "[::ffff:127.0.0.1]:1"}) {
            Client.builder(target).token("t").build().close();
        }
    }

    @Test
    void aTokenThatIsNoneIsNeverShown() throws Exception {
        Path file = Files.writeString(folder.resolve("token"), "top secret\n");
        assertFalse(said(() -> Client.builder("localhost:1").token("top secret")).contains("secret"));
        assertFalse(said(() -> Client.builder("localhost:1").tokenFile(file)).contains("secret"));
        assertTrue(said(() -> Client.builder("localhost:1").tokenFile(folder.resolve("none")))
                .contains("can't be read"));
    }

    @Test
    void filesOfTlsThatDoNotFit() {
        assertTrue(said(() -> new Tls(null, folder, null, null)).contains("go together"));
        assertTrue(said(() -> Client.builder("localhost:1")
                        .tls(Tls.of(folder.resolve("none")))
                        .build())
                .startsWith("tls: "));
    }

    @Test
    void valuesThatAFrameCannotHold() {
        assertTrue(said(() -> Frame.picture(new byte[] {1, 2, 3, 4})).contains("no JPEG or PNG"));
        assertTrue(said(() -> Tensor.of(new float[3], 2, 2)).contains("do not fill [2, 2]"));
        assertTrue(said(() -> StreamOptions.of("m").budget(Duration.ZERO)).contains("budget"));
    }

    @Test
    void elementsOfAllKindsCanBeRead() {
        assertArrayEquals(new double[] {255}, Tensor.of(new byte[] {-1}).doubles());
        assertArrayEquals(new double[] {-1, 2}, Tensor.of(new int[] {-1, 2}).doubles());
        assertArrayEquals(new double[] {-3}, Tensor.of(new long[] {-3}).doubles());
        assertArrayEquals(new float[] {1.5f}, Tensor.of(new float[] {1.5f}, 1).floats());
        var wide = new Tensor(DataType.UINT64, Tensor.of(new long[0]).shape(), Tensor.of(new long[] {-1}).data());
        assertArrayEquals(new double[] {0x1p64}, wide.doubles());
    }

    @Test
    void detailsOfAStatusThatNobodyCanReadLeaveItsCodeAndMessage() {
        var trailers = new Metadata();
        var key = Metadata.Key.of("grpc-status-details-bin", Metadata.BINARY_BYTE_MARSHALLER);
        trailers.put(key, new byte[] {0x1a, 0x05, (byte) 0xff});
        var status = io.grpc.Status.NOT_FOUND.withDescription("no such model");
        DulyException error = Errors.of(status, trailers, "host:1");
        assertEquals(DulyException.ModelNotFound.class, error.getClass());
        assertEquals("no such model", error.getMessage());
    }

    @Test
    void textComesBackAsItWas() {
        String[] texts = {"", "zwölf", "a\0b"};
        Tensor tensor = Tensor.of(texts, 3);
        assertEquals(List.of(texts), tensor.strings());
        assertEquals(3, tensor.size());
        assertEquals(0x600000000L, tensor.data().getLong());
        assertTrue(said(() -> Tensor.of(texts, 2)).contains("3 texts do not fill [2]"));
        assertThrows(IllegalStateException.class, tensor::doubles);
        assertThrows(IllegalStateException.class, Tensor.of(new float[1])::strings);
    }

    @Test
    void textThatLiesIsRefused() {
        for (byte[] data : new byte[][] {{1}, {5, 0, 0, 0, 97, 98}, {-1, -1, -1, -1}, {0, 0, 0, 0, 1}}) {
            var bytes = ByteBuffer.wrap(data);
            assertTrue(said(() -> new Tensor(DataType.STRING, List.of(1L), bytes)).contains("ends behind the"));
        }
        var odd = new Tensor(DataType.STRING, List.of(1L), ByteBuffer.wrap(new byte[] {1, 0, 0, 0, -1}));
        assertThrows(IllegalStateException.class, odd::strings);
    }

    @Test
    void bfloat16IsRoundedToTheNearestEven() {
        float[] given = {1, -2.5f, 1 + 1 / 256f, 1 + 3 / 256f, Float.POSITIVE_INFINITY, Float.NaN};
        float[] wanted = {1, -2.5f, 1, 1 + 4 / 256f, Float.POSITIVE_INFINITY, Float.NaN};
        assertArrayEquals(wanted, Tensor.bfloat16(given).floats());
        assertArrayEquals(new double[] {-2.5}, Tensor.bfloat16(new float[] {-2.5f}, 1).doubles());
    }
}
