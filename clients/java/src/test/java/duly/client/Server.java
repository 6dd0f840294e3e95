package duly.client;

import static org.junit.jupiter.api.Assumptions.assumeTrue;

import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/** A real server for tests, in a process of its own: duly serve of this checkout with the models of the suite. */
final class Server implements AutoCloseable {
    private static final Path ROOT = Path.of("../..").toAbsolutePath().normalize();
    private static final String STATED = System.getenv("PYTHON");
    private static final Path PYTHON = STATED == null ? ROOT.resolve(".venv/bin/python") : Path.of(STATED);

    private final Process process;
    final String address;

    /** Starts one with these options of duly serve. */
    Server(Path folder, List<String> options) throws IOException, InterruptedException {
        python(
                "-c",
                "from pathlib import Path; from clients.conformance.models import NAMES, write_models; "
                        + "write_models(Path('" + folder + "/models'), NAMES)");
        var arguments = new ArrayList<>(List.of("-m", "duly.cli", "serve", "--models", folder + "/models"));
        arguments.addAll(List.of("--threads", "1", "--log-format", "json"));
        arguments.addAll(options);
        process = start(arguments);
        var said = new BufferedReader(new InputStreamReader(process.getErrorStream(), StandardCharsets.UTF_8));
        String serving = null;
        for (String line; serving == null; ) {
            line = said.readLine();
            if (line == null) {
                throw new IOException("the server ended before it served");
            }
            JsonObject entry = JsonParser.parseString(line).getAsJsonObject();
            if (entry.get("event").getAsString().equals("serving")) {
                serving = entry.get("address").getAsString();
            }
        }
        address = serving;
        var draining = new Thread(() -> said.lines().forEach(line -> {}));
        draining.setDaemon(true);
        draining.start();
    }

    /** Runs Python in this checkout. Skips the test where there is none. */
    static void python(String... arguments) throws IOException, InterruptedException {
        Process process = start(List.of(arguments));
        String said = new String(process.getErrorStream().readAllBytes(), StandardCharsets.UTF_8);
        if (process.waitFor() != 0) {
            throw new IOException(said);
        }
    }

    private static Process start(List<String> arguments) throws IOException {
        assumeTrue(Files.exists(PYTHON), PYTHON + " is not there: make setup, or set PYTHON");
        var command = new ArrayList<>(List.of(PYTHON.toString()));
        command.addAll(arguments);
        return new ProcessBuilder(command)
                .directory(ROOT.toFile())
                .redirectOutput(ProcessBuilder.Redirect.DISCARD)
                .start();
    }

    @Override
    public void close() throws InterruptedException {
        process.destroyForcibly().waitFor();
    }
}
