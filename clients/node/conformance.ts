/** The program of this client for the conformance suite; clients/conformance/README.md says what it has to do. */
import { createInterface } from "node:readline";
import { Client, Clock, DulyError, encoded, fromBfloat16, Pace, tensor, toBfloat16 } from "./src/index.js";
import type {
  ClockEstimate,
  Encoding,
  Feedback,
  Payload,
  Stream,
  StreamOptions,
  Tensor,
  TensorSpec,
  Value,
} from "./src/index.js";

// What the suite writes, as it writes it.
// eslint-disable-next-line @typescript-eslint/no-explicit-any
type Command = any;

let client: Client | undefined;
let stream: Stream | undefined;
let reading: Promise<void> | undefined;

function say(event: string, what: object): void {
  process.stdout.write(JSON.stringify({ event, ...what }) + "\n");
}

/** The options that a command states, by the names that this client has for them. */
function stated(command: Command, names: Record<string, string>): object {
  const found = Object.entries(names).filter(([name]) => command[name] !== undefined);
  return Object.fromEntries(found.map(([name, option]) => [option, command[name]]));
}

async function open(command: Command): Promise<void> {
  const names = { token: "token", reconnect: "reconnect", open_timeout_ms: "openTimeoutMs" };
  client = new Client(command.target, stated(command, names));
  const options: StreamOptions = {
    ...stated(command, {
      version: "version",
      name: "name",
      class: "streamClass",
      budget_ms: "budgetMs",
      period_ms: "periodMs",
      backlog: "backlog",
      backlog_frames: "backlogFrames",
      ordering: "ordering",
      outputs: "outputs",
      gap: "gap",
      variant_lowest: "variantLowest",
      floor: "floor",
      follow_advice: "followAdvice",
    }),
    onAdvice: ({ kind, periodNs, version, reason }) =>
      say("advice", { kind, period_ms: periodNs / 1e6, version, reason }),
  };
  try {
    stream = await client.stream(command.model, options);
  } catch (error) {
    if (!(error instanceof DulyError)) throw error;
    say("refused", { reason: error.reason, message: error.message, metadata: Object.fromEntries(error.metadata) });
    return;
  }
  const { opened } = stream;
  say("opened", {
    version: opened.version,
    class: opened.streamClass,
    backlog: opened.backlog,
    backlog_frames: opened.backlogFrames,
    ordering: opened.ordering,
    budget_ms: opened.defaultBudgetNs / 1e6,
    frames_in_flight_max: opened.framesInFlightMax,
    inputs: opened.inputs.map(specOf),
    outputs: opened.outputs.map(specOf),
  });
  reading = read(stream);
}

function specOf({ name, datatype, shape }: TensorSpec): object {
  return { name, dtype: datatype, shape };
}

async function read(from: Stream): Promise<void> {
  let [reason, message] = ["", ""];
  try {
    for await (const outcome of from) {
      const outputs = [...outcome.outputs].map(([name, output]) => [name, plain(output)]);
      say("outcome", {
        id: outcome.frameId,
        status: outcome.status,
        outputs: Object.fromEntries(outputs),
        version: outcome.version,
        reason: outcome.reason,
        latency_ms: outcome.latencyNs / 1e6,
        capture_to_receipt_ms: outcome.timing.captureToReceiptNs / 1e6,
        clock_uncertainty_ms: outcome.timing.clockUncertaintyNs / 1e6,
        guards: outcome.guards,
      });
    }
  } catch (error) {
    if (!(error instanceof DulyError)) throw error;
    [reason, message] = [error.reason, error.message];
  }
  say("ended", { reason, message });
}

function plain({ data, datatype }: Tensor): (number | string)[] {
  if (datatype === "STRING") return [...(data as string[])];
  const numbers = datatype === "BF16" ? fromBfloat16(data as Uint16Array) : data;
  return Array.from(numbers as Iterable<number>, Number);
}

function payloadOf(command: Command): Payload {
  let value: Value;
  if (command.data !== undefined) value = encoded(Buffer.from(command.data, "base64"), command.format as Encoding);
  else if (command.texts !== undefined) value = tensor(command.texts, command.shape ?? [command.texts.length]);
  else if (command.dtype === "BF16") value = tensor(toBfloat16(command.values), command.shape, "BF16");
  else value = tensor(Float32Array.from(command.values), command.shape ?? [command.values.length]);
  return command.input === undefined ? value : { [command.input]: value };
}

function sendOptions(command: Command): object {
  const agoNs = BigInt(Math.round((command.captured_ago_ms ?? 0) * 1e6));
  return {
    ...stated(command, { budget_ms: "budgetMs", must_run: "mustRun" }),
    ...(agoNs > 0n && { captureTimeNs: BigInt(Date.now()) * 1_000_000n - agoNs }),
  };
}

async function feedback(command: Command): Promise<void> {
  const items: Feedback[] = command.items.map((item: Command) => ({
    streamKey: item.key ?? stream!.keyOf(item.id),
    frameId: item.id,
    label: item.number ?? item.name ?? { [item.output]: Float32Array.from(item.values) },
    ...stated(item, { weight: "weight", source: "source" }),
  }));
  try {
    const results = await client!.feedback(items);
    const [statuses, reasons] = [results.map((each) => each.status), results.map((each) => each.reason)];
    say("labelled", { reason: "", statuses, reasons });
  } catch (error) {
    if (!(error instanceof DulyError)) throw error;
    say("labelled", { reason: error.reason, statuses: [], reasons: [] });
  }
}

function sayClock(estimate: ClockEstimate | undefined): void {
  say("clock", {
    offset_ns: estimate === undefined ? null : Number(estimate.offsetNs),
    uncertainty_ns: estimate === undefined ? null : Number(estimate.uncertaintyNs),
  });
}

async function obey(command: Command): Promise<void> {
  switch (command.do) {
    case "open":
      return open(command);
    case "send": {
      const ids: number[] = [];
      for (let nth = 0; nth < (command.count ?? 1); nth++) {
        ids.push(await stream!.send(payloadOf(command), sendOptions(command)));
      }
      return say("sent", { ids });
    }
    case "try_send": {
      const tries = Array.from({ length: command.count ?? 1 }, () =>
        stream!.trySend(payloadOf(command), sendOptions(command)),
      );
      const ids = tries.filter((id) => id !== undefined);
      return say("tried", { ids, full: tries.length - ids.length });
    }
    case "cancel":
      return stream!.cancel(command.ids);
    case "feedback":
      return feedback(command);
    case "clock":
      return sayClock(stream!.clock);
    case "finish":
      return stream!.finish();
    case "close":
      return stream!.close();
    case "clock_of": {
      const clock = new Clock();
      for (const [sent, serverReceived, serverSent, received] of command.exchanges) {
        clock.add(BigInt(sent), BigInt(serverReceived), BigInt(serverSent), BigInt(received));
      }
      return sayClock(clock.estimate(BigInt(command.now_ns)));
    }
    case "pace_of": {
      const pace = new Pace();
      pace.advised(0, command.period_ns, command.phase);
      const due = command.at_ns.map((atNs: number) => {
        const isDue = pace.due(atNs);
        if (isDue) pace.sent(atNs);
        return isDue;
      });
      return say("pace", { due });
    }
    default:
      throw new TypeError(`no such command: ${command.do}`);
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  try {
    await obey(JSON.parse(line));
  } catch (error) {
    say("error", { message: String(error) });
  }
}
stream?.close();
await reading;
client?.close();
