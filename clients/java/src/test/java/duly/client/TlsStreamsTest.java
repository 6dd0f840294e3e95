package duly.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.attribute.FileTime;
import java.time.Duration;
import java.util.List;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Streams to a real server that asks for certificates. */
class TlsStreamsTest {
    @TempDir
    static Path folder;

    private static Server server;
    private static String target;

    @BeforeAll
    static void start() throws Exception {
        Path certs = folder.resolve("certs");
        server = new Server(folder, prepared(certs));
        target = server.address.replace("127.0.0.1", "localhost");
    }

    private static List<String> prepared(Path certs) throws Exception {
        for (Path each : List.of(certs, folder.resolve("others"))) {
            Server.python("-m", "duly.cli", "certs", "dev", each.toString(), "--host", "localhost");
        }
        return List.of(
                "--listen", "127.0.0.1:0",
                "--tls-cert", certs + "/server.pem",
                "--tls-key", certs + "/server.key",
                "--tls-client-ca", certs + "/ca.pem");
    }

    @AfterAll
    static void stop() throws Exception {
        if (server != null) {
            server.close();
        }
    }

    private static Tls files(Path from) {
        return Tls.of(from.resolve("ca.pem")).identity(from.resolve("client.pem"), from.resolve("client.key"));
    }

    private static Status served(Client client) throws InterruptedException {
        try (FrameStream stream = client.open(StreamOptions.of("double").budget(Duration.ofMinutes(1)))) {
            stream.send(Frame.of(Tensor.of(new float[] {1, 2, 3, 4})));
            return stream.receive().orElseThrow().status();
        }
    }

    private static Client client(String at, Tls tls) {
        return Client.builder(at).tls(tls).openTimeout(Duration.ofSeconds(2)).build();
    }

    @Test
    void withCertificatesThatFitAndANameOtherThanTheHosts() throws Exception {
        Tls fits = files(folder.resolve("certs"));
        try (Client client = Client.builder(target).tls(fits).build()) {
            assertEquals(Status.ON_TIME, served(client));
        }
        try (Client client = Client.builder(server.address).tls(fits.serverName("localhost")).build()) {
            assertEquals(Status.ON_TIME, served(client));
        }
    }

    @Test
    void withAServerThatIsNotTrustedAndWithoutACertificateOfItsOwn() {
        Path certs = folder.resolve("certs");
        Path others = folder.resolve("others");
        Tls notTrusted = Tls.of(others.resolve("ca.pem"))
                .identity(certs.resolve("client.pem"), certs.resolve("client.key"));
        for (Tls tls : List.of(notTrusted, Tls.of(certs.resolve("ca.pem")))) {
            try (Client client = client(target, tls)) {
                assertThrows(DulyException.ServerUnavailable.class, () -> served(client));
            }
        }
    }

    @Test
    void filesThatChangeAreReadAgainForTheNextStream() throws Exception {
        Path replaced = Files.createDirectories(folder.resolve("replaced"));
        put(folder.resolve("others"), replaced, 1);
        try (Client client = client(target, files(replaced))) {
            assertThrows(DulyException.ServerUnavailable.class, () -> served(client));
            put(folder.resolve("certs"), replaced, 2);
            assertEquals(Status.ON_TIME, served(client));
        }
    }

    private static void put(Path from, Path to, int second) throws Exception {
        for (String file : List.of("ca.pem", "client.pem", "client.key")) {
            Files.copy(from.resolve(file), to.resolve(file), StandardCopyOption.REPLACE_EXISTING);
            Files.setLastModifiedTime(to.resolve(file), FileTime.fromMillis(second * 1000L));
        }
    }
}
