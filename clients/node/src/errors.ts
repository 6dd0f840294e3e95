/**
 * The errors of calls. A call that the server ends becomes a `DulyError` with the server's own message, its stable
 * `reason` and its `metadata` (such as what would fit). A frame that gets no result is no error: it is an outcome.
 * Misuse by the caller is a TypeError or RangeError.
 */
import { BinaryReader } from "@bufbuild/protobuf/wire";
import { status, type StatusObject } from "@grpc/grpc-js";

/** Base of all errors of a call. */
export class DulyError extends Error {
  /** True where opening the same stream again a little later may succeed. */
  recoverable = false;
  /** The server's stable name for the error; "" where it gave none. */
  readonly reason: string;
  /** What the server's ErrorInfo says beside its reason. */
  readonly metadata: ReadonlyMap<string, string>;

  constructor(message: string, reason = "", metadata: ReadonlyMap<string, string> = new Map()) {
    super(message);
    this.name = new.target.name;
    this.reason = reason;
    this.metadata = metadata;
  }
}

/** No server answers, the connection was lost, or the server is draining. */
export class ServerUnavailable extends DulyError {
  override recoverable = true;
}

/** The repository has no such model or version. */
export class ModelNotFound extends DulyError {}

/** The model is known but not loaded, or is loading. */
export class ModelNotReady extends DulyError {
  override recoverable = true;
}

/**
 * The server has no capacity for the stream. `metadata` may say what would fit, each alone: "period_nano" is the
 * shortest period, "budget_nano" the smallest budget, "variant" the most accurate variant as `variantLowest`.
 */
export class StreamRefused extends DulyError {
  override recoverable = true;
}

/** The application did not read its outcomes in time. */
export class ClientTooSlow extends DulyError {}

/** The server understood the request and found it wrong. */
export class InvalidRequest extends DulyError {}

/** The credentials are missing or do not permit the call. */
export class NotAllowed extends DulyError {}

/** The server failed by a fault of its own. */
export class ServerFault extends DulyError {}

/** The server sent what the protocol does not allow. */
export class ProtocolError extends DulyError {}

type Kind = typeof DulyError;

const BY_REASON = new Map<string, Kind>([
  ["MODEL_NOT_FOUND", ModelNotFound],
  ["VERSION_NOT_FOUND", ModelNotFound],
  ["SERVICE_NOT_FOUND", ModelNotFound],
  ["MODEL_NOT_READY", ModelNotReady],
  ["FIRST_MESSAGE_NOT_OPEN", InvalidRequest],
  ["STREAM_OPENED_TWICE", InvalidRequest],
  ["FRAME_ID_NOT_INCREASING", InvalidRequest],
  ["INVALID_OPEN", InvalidRequest],
  ["INVALID_REQUEST", InvalidRequest],
  ["MESSAGE_MALFORMED", InvalidRequest],
  ["MESSAGE_OVERFULL", InvalidRequest],
  ["ADMISSION_REFUSED", StreamRefused],
  ["ADMISSION_BUSY", ServerUnavailable],
  ["STREAMS_EXHAUSTED", StreamRefused],
  ["CALLS_EXHAUSTED", StreamRefused],
  ["DRAINING", ServerUnavailable],
  ["FEEDBACK_OFF", InvalidRequest],
  ["FEEDBACK_UNAVAILABLE", ServerUnavailable],
  ["CLIENT_TOO_SLOW", ClientTooSlow],
  ["UNAUTHENTICATED", NotAllowed],
  ["NOT_PERMITTED", NotAllowed],
  ["INTERNAL", ServerFault],
]);

const BY_CODE = new Map<status, Kind>([
  [status.UNAVAILABLE, ServerUnavailable],
  // A server that stops without grace cancels its calls; those that the client cancels never get here.
  [status.CANCELLED, ServerUnavailable],
  [status.DEADLINE_EXCEEDED, ServerUnavailable],
  [status.NOT_FOUND, ModelNotFound],
  [status.FAILED_PRECONDITION, ModelNotReady],
  [status.RESOURCE_EXHAUSTED, StreamRefused],
  [status.INVALID_ARGUMENT, InvalidRequest],
  [status.OUT_OF_RANGE, InvalidRequest],
  [status.UNAUTHENTICATED, NotAllowed],
  [status.PERMISSION_DENIED, NotAllowed],
  [status.INTERNAL, ServerFault],
  [status.UNKNOWN, ServerFault],
  [status.DATA_LOSS, ServerFault],
]);

/** Makes an error of the status that ended a call to `target`: by its reason where it has one, else by its code. */
export function errorOf(ended: StatusObject, target: string): DulyError {
  const { reason, metadata } = errorInfo(ended);
  let kind = BY_REASON.get(reason) ?? BY_CODE.get(ended.code) ?? DulyError;
  // What grpc-js itself says of a connection that broke.
  if (reason === "" && kind === ServerFault && /RST_STREAM|ECONNRESET|GOAWAY/.test(ended.details)) {
    kind = ServerUnavailable;
  }
  let text = ended.details || status[ended.code];
  if (kind === ServerUnavailable && reason === "") text = `no answer from ${target}: ${text}`;
  else if (ended.code === status.UNIMPLEMENTED) text = `${target} is no duly server, or an older one: ${text}`;
  return new kind(text, reason, metadata);
}

/** Reason and metadata of the google.rpc.ErrorInfo in a status; "" and none where there is none. */
function errorInfo(ended: StatusObject): { reason: string; metadata: Map<string, string> } {
  for (const packed of ended.metadata.get("grpc-status-details-bin")) {
    try {
      for (const any of fields(bytesOf(packed)).get(3) ?? []) {
        const detail = fields(any);
        if (text(detail.get(1)).endsWith("/google.rpc.ErrorInfo")) return readErrorInfo(detail.get(2)?.[0]);
      }
    } catch {
      // Details that nobody can read: the status has its code and message all the same.
    }
  }
  return { reason: "", metadata: new Map() };
}

function readErrorInfo(value: Uint8Array | undefined): { reason: string; metadata: Map<string, string> } {
  const info = fields(value ?? new Uint8Array());
  const metadata = new Map<string, string>();
  for (const entry of info.get(3) ?? []) {
    const pair = fields(entry);
    metadata.set(text(pair.get(1)), text(pair.get(2)));
  }
  return { reason: text(info.get(1)), metadata };
}

/** The length-delimited fields of a message, by number; the few messages of google.rpc here need no others. */
function fields(message: Uint8Array): Map<number, Uint8Array[]> {
  const found = new Map<number, Uint8Array[]>();
  const reader = new BinaryReader(message);
  while (reader.pos < reader.len) {
    const [number, wireType] = reader.tag();
    if (wireType !== 2) {
      reader.skip(wireType, number);
      continue;
    }
    const values = found.get(number) ?? [];
    values.push(reader.bytes());
    found.set(number, values);
  }
  return found;
}

function text(values: Uint8Array[] | undefined): string {
  return new TextDecoder().decode(values?.at(-1));
}

function bytesOf(value: string | Buffer): Uint8Array {
  return typeof value === "string" ? Buffer.from(value, "base64") : value;
}
