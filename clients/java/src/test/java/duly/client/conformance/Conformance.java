package duly.client.conformance;

import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import duly.client.Advice;
import duly.client.Client;
import duly.client.Clock;
import duly.client.ClockEstimate;
import duly.client.DataType;
import duly.client.DulyException;
import duly.client.Encoded;
import duly.client.Encoding;
import duly.client.Feedback;
import duly.client.FeedbackResult;
import duly.client.Frame;
import duly.client.FrameStream;
import duly.client.Input;
import duly.client.Outcome;
import duly.client.Pace;
import duly.client.StreamOptions;
import duly.client.StreamTerms;
import duly.client.Tensor;
import duly.client.TensorSpec;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.stream.StreamSupport;

/** The program of this client for the conformance suite; clients/conformance/README.md says what it has to do. */
public final class Conformance {
    private static final Gson GSON = new Gson().newBuilder().serializeNulls().create();

    private Client client;
    private FrameStream stream;
    private Thread reading;

    private Conformance() {}

    public static void main(String[] arguments) throws IOException, InterruptedException {
        new Conformance().run();
    }

    private void run() throws IOException, InterruptedException {
        var in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = in.readLine()) != null; ) {
            try {
                obey(JsonParser.parseString(line).getAsJsonObject());
            } catch (RuntimeException error) {
                say("error", Map.of("message", error.toString()));
            }
        }
        if (stream != null) {
            stream.close();
        }
        if (reading != null) {
            reading.join();
        }
        if (client != null) {
            client.close();
        }
    }

    private static synchronized void say(String event, Map<String, ?> what) {
        var said = new LinkedHashMap<String, Object>();
        said.put("event", event);
        said.putAll(what);
        System.out.println(GSON.toJson(said));
    }

    private void obey(JsonObject command) throws InterruptedException {
        String kind = command.get("do").getAsString();
        switch (kind) {
            case "open" -> open(command);
            case "send" -> {
                List<Long> ids = new ArrayList<>();
                for (int nth = 0; nth < count(command); nth++) {
                    ids.add(stream.send(frame(command)));
                }
                say("sent", Map.of("ids", ids));
            }
            case "try_send" -> {
                List<Long> ids = new ArrayList<>();
                for (int nth = 0; nth < count(command); nth++) {
                    stream.trySend(frame(command)).ifPresent(ids::add);
                }
                say("tried", Map.of("ids", ids, "full", count(command) - ids.size()));
            }
            case "cancel" -> stream.cancel(
                    elements(command, "ids").stream().map(JsonElement::getAsLong).toList());
            case "feedback" -> feedback(elements(command, "items"));
            case "clock" -> sayClock(stream.clock());
            case "finish" -> stream.finish();
            case "close" -> stream.close();
            case "clock_of" -> clockOf(command);
            case "pace_of" -> paceOf(command);
            default -> throw new IllegalArgumentException("no such command: " + kind);
        }
    }

    private void open(JsonObject command) throws InterruptedException {
        Client.Builder builder = Client.builder(command.get("target").getAsString());
        if (command.has("token")) {
            builder.token(command.get("token").getAsString());
        }
        if (command.has("reconnect") && !command.get("reconnect").getAsBoolean()) {
            builder.reconnectTriesMax(0);
        }
        if (command.has("open_timeout_ms")) {
            builder.openTimeout(milliseconds(command.get("open_timeout_ms")));
        }
        client = builder.build();
        try {
            stream = client.open(options(command));
        } catch (DulyException error) {
            say(
                    "refused",
                    Map.of("reason", error.reason(), "message", error.getMessage(), "metadata", error.metadata()));
            return;
        }
        StreamTerms terms = stream.opened();
        say(
                "opened",
                Map.of(
                        "version", terms.version(),
                        "class", terms.streamClass(),
                        "backlog", terms.backlog(),
                        "backlog_frames", terms.backlogFrames(),
                        "ordering", terms.ordering(),
                        "budget_ms", terms.defaultBudgetNs() / 1e6,
                        "frames_in_flight_max", terms.framesInFlightMax(),
                        "inputs", terms.inputs().stream().map(Conformance::spec).toList(),
                        "outputs", terms.outputs().stream().map(Conformance::spec).toList()));
        reading = new Thread(this::read);
        reading.start();
    }

    private static StreamOptions options(JsonObject command) {
        StreamOptions options = StreamOptions.of(command.get("model").getAsString()).onAdvice(Conformance::sayAdvice);
        for (String name : command.keySet()) {
            JsonElement value = command.get(name);
            switch (name) {
                case "version" -> options.version(value.getAsString());
                case "name" -> options.name(value.getAsString());
                case "class" -> options.streamClass(StreamOptions.StreamClass.valueOf(value.getAsString()));
                case "budget_ms" -> options.budget(milliseconds(value));
                case "period_ms" -> options.period(milliseconds(value));
                case "backlog" -> options.backlog(StreamOptions.Backlog.valueOf(value.getAsString()));
                case "backlog_frames" -> options.backlogFrames(value.getAsInt());
                case "ordering" -> options.ordering(StreamOptions.Ordering.valueOf(value.getAsString()));
                case "outputs" -> options.outputs(
                        elements(command, name).stream().map(JsonElement::getAsString).toList());
                case "gap" -> options.gap(StreamOptions.Gap.valueOf(value.getAsString()));
                case "variant_lowest" -> options.variantLowest(value.getAsString());
                case "floor" -> options.floor(
                        value.getAsJsonArray().get(0).getAsInt(),
                        value.getAsJsonArray().get(1).getAsInt());
                case "follow_advice" -> options.followAdvice(value.getAsBoolean());
                default -> {} // of the client
            }
        }
        return options;
    }

    private static Map<String, Object> spec(TensorSpec spec) {
        return Map.of("name", spec.name(), "dtype", spec.datatype().name(), "shape", spec.shape());
    }

    private void read() {
        String reason = "";
        String message = "";
        try {
            for (Outcome outcome : stream) {
                sayOutcome(outcome);
            }
        } catch (DulyException error) {
            reason = error.reason();
            message = error.getMessage();
        }
        say("ended", Map.of("reason", reason, "message", message));
    }

    private static void sayOutcome(Outcome outcome) {
        var outputs = new LinkedHashMap<String, Object>();
        outcome.outputs()
                .forEach((name, tensor) -> outputs.put(
                        name, tensor.datatype() == DataType.STRING ? tensor.strings() : tensor.doubles()));
        say(
                "outcome",
                Map.of(
                        "id", outcome.frameId(),
                        "status", outcome.status().name(),
                        "outputs", outputs,
                        "version", outcome.version(),
                        "reason", outcome.reason(),
                        "latency_ms", outcome.latencyNs() / 1e6,
                        "capture_to_receipt_ms", outcome.timing().captureToReceiptNs() / 1e6,
                        "clock_uncertainty_ms", outcome.timing().clockUncertaintyNs() / 1e6,
                        "guards", outcome.guards()));
    }

    private static void sayAdvice(Advice advice) {
        say(
                "advice",
                Map.of(
                        "kind", advice.kind().name(),
                        "period_ms", advice.periodNs() / 1e6,
                        "version", advice.version(),
                        "reason", advice.reason()));
    }

    private void feedback(List<JsonElement> items) {
        List<Feedback> labels = new ArrayList<>();
        for (JsonElement each : items) {
            JsonObject item = each.getAsJsonObject();
            long id = item.get("id").getAsLong();
            String key = item.has("key") ? item.get("key").getAsString() : stream.keyOf(id);
            Feedback label;
            if (item.has("number")) {
                label = Feedback.of(key, id, item.get("number").getAsLong());
            } else if (item.has("name")) {
                label = Feedback.of(key, id, item.get("name").getAsString());
            } else {
                float[] values = floats(item);
                label = Feedback.of(key, id, Map.of(item.get("output").getAsString(), Tensor.of(values, values.length)));
            }
            label = item.has("weight") ? label.weight(item.get("weight").getAsDouble()) : label;
            labels.add(item.has("source") ? label.source(item.get("source").getAsString()) : label);
        }
        String reason = "";
        List<FeedbackResult> results = List.of();
        try {
            results = client.feedback(labels);
        } catch (DulyException error) {
            reason = error.reason();
        }
        say(
                "labelled",
                Map.of(
                        "reason", reason,
                        "statuses", results.stream().map(each -> each.status().name()).toList(),
                        "reasons", results.stream().map(FeedbackResult::reason).toList()));
    }

    private static void sayClock(Optional<ClockEstimate> estimate) {
        var what = new LinkedHashMap<String, Long>();
        what.put("offset_ns", estimate.map(ClockEstimate::offsetNs).orElse(null));
        what.put("uncertainty_ns", estimate.map(ClockEstimate::uncertaintyNs).orElse(null));
        say("clock", what);
    }

    private static Frame frame(JsonObject command) {
        Input input;
        if (command.has("data")) {
            byte[] data = Base64.getDecoder().decode(command.get("data").getAsString());
            input = new Encoded(Encoding.valueOf(command.get("format").getAsString()), data);
        } else if (command.has("texts")) {
            String[] texts = elements(command, "texts").stream()
                    .map(JsonElement::getAsString)
                    .toArray(String[]::new);
            input = Tensor.of(texts, shape(command, texts.length));
        } else {
            float[] values = floats(command);
            long[] shape = shape(command, values.length);
            boolean half = command.has("dtype") && command.get("dtype").getAsString().equals("BF16");
            input = half ? Tensor.bfloat16(values, shape) : Tensor.of(values, shape);
        }
        String name = command.has("input") ? command.get("input").getAsString() : "";
        Frame frame = Frame.of(Map.of(name, input));
        if (command.has("budget_ms")) {
            frame = frame.budget(milliseconds(command.get("budget_ms")));
        }
        if (command.has("captured_ago_ms")) {
            frame = frame.capturedAt(Instant.now().minus(milliseconds(command.get("captured_ago_ms"))));
        }
        return frame.mustRun(command.has("must_run") && command.get("must_run").getAsBoolean());
    }

    private static float[] floats(JsonObject command) {
        List<JsonElement> given = elements(command, "values");
        float[] values = new float[given.size()];
        for (int nth = 0; nth < values.length; nth++) {
            values[nth] = given.get(nth).getAsFloat();
        }
        return values;
    }

    private static long[] shape(JsonObject command, int count) {
        return command.has("shape")
                ? elements(command, "shape").stream().mapToLong(JsonElement::getAsLong).toArray()
                : new long[] {count};
    }

    private static void clockOf(JsonObject command) {
        var clock = new Clock();
        for (JsonElement each : elements(command, "exchanges")) {
            JsonArray times = each.getAsJsonArray();
            clock.add(
                    times.get(0).getAsLong(),
                    times.get(1).getAsLong(),
                    times.get(2).getAsLong(),
                    times.get(3).getAsLong());
        }
        sayClock(clock.estimate(command.get("now_ns").getAsLong()));
    }

    private static void paceOf(JsonObject command) {
        var pace = new Pace();
        pace.advised(0, command.get("period_ns").getAsLong(), command.get("phase").getAsDouble());
        List<Boolean> due = new ArrayList<>();
        for (JsonElement each : elements(command, "at_ns")) {
            boolean isDue = pace.due(each.getAsLong());
            if (isDue) {
                pace.sent(each.getAsLong());
            }
            due.add(isDue);
        }
        say("pace", Map.of("due", due));
    }

    private static int count(JsonObject command) {
        return command.has("count") ? command.get("count").getAsInt() : 1;
    }

    private static List<JsonElement> elements(JsonObject command, String name) {
        return StreamSupport.stream(command.get(name).getAsJsonArray().spliterator(), false)
                .toList();
    }

    private static Duration milliseconds(JsonElement value) {
        return Duration.ofNanos(Math.round(value.getAsDouble() * 1e6));
    }
}
