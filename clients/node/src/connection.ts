/**
 * One `Stream` call, from its OpenStream to its status. A stream uses one after the other when connections are lost.
 *
 * What waits for the transport is bounded; frames, pings and cancellations leave in the order in which they were given.
 */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Metadata, type Client, type ClientDuplexStream, type StatusObject, status } from "@grpc/grpc-js";
import { Clock } from "./clock.js";
import { DulyError, ProtocolError, ServerUnavailable, errorOf } from "./errors.js";
import {
  StreamRequestSchema,
  StreamResponseSchema,
  type ClockPong,
  type Outcome as WireOutcome,
  type OpenStream,
  type StreamRequest,
  type StreamResponse,
} from "./gen/duly/v1/inference_pb.js";
import { adviceOf, termsOf, type Advice, type StreamTerms } from "./types.js";
import type { WallClock } from "./wall-clock.js";

/** Bytes of frames that may wait for the transport; a larger one waits alone. Older data is worth less than newer. */
export const PENDING_BYTES_MAX = 256 * 1024;
/** Number of frames that may wait for the transport. */
export const PENDING_FRAMES_MAX = 64;
/** Number of exchanges, one after the other, when the stream opens: enough to meet a quick one. */
const PINGS_AT_OPEN = 8;
const PING_PERIOD_MS = 10_000;

const METHOD = "/duly.v1.InferenceService/Stream";

/** Who hears of what comes. */
export interface Receiver {
  outcomes(outcomes: readonly WireOutcome[]): void;
  advice(advice: Advice): void;
  /** A frame that waited went to the transport, or the call is over. */
  room(): void;
}

export class Connection {
  readonly clock = new Clock();
  /** Resolves once the server can count budgets from capture, or the call is over. */
  readonly clockRelated: Promise<void>;
  /** Resolves when the call is over, with why: undefined is the server's OK. */
  readonly ended: Promise<DulyError | undefined>;
  readonly #call: ClientDuplexStream<Uint8Array, StreamResponse>;
  readonly #target: string;
  readonly #wall: WallClock;
  readonly #receiver: Receiver;
  #opened: ((terms: StreamTerms) => void) | undefined;
  #related!: () => void;
  #over!: (error: DulyError | undefined) => void;
  #isOver = false;
  #failure: DulyError | undefined;
  #status: StatusObject | undefined;
  #allRead = false;
  #pendingFrames = 0;
  #pendingBytes = 0;
  #halfClosed = false;
  #wallMovedNs: bigint;
  #pingId = 0n;
  #pingMovedNs = 0n;
  #pingsInARow = PINGS_AT_OPEN;
  #pingTimer: NodeJS.Timeout | undefined;

  constructor(client: Client, target: string, token: string, wall: WallClock, receiver: Receiver) {
    this.#target = target;
    this.#wall = wall;
    this.#wallMovedNs = wall.movedNs;
    this.#receiver = receiver;
    this.clockRelated = new Promise((resolve) => (this.#related = resolve));
    this.ended = new Promise((resolve) => (this.#over = resolve));
    const metadata = new Metadata();
    if (token !== "") metadata.set("authorization", `Bearer ${token}`);
    this.#call = client.makeBidiStreamRequest(
      METHOD,
      (message: Uint8Array) => Buffer.from(message.buffer, message.byteOffset, message.byteLength),
      (message: Buffer) => fromBinary(StreamResponseSchema, message),
      metadata,
    );
    this.#call.on("data", (response: StreamResponse) => this.#take(response));
    // What came before the end may still wait to be read when the status is there.
    for (const event of ["end", "close"]) {
      this.#call.on(event, () => {
        this.#allRead = true;
        this.#endIfAll();
      });
    }
    this.#call.on("status", (ended: StatusObject) => {
      this.#status = ended;
      this.#receiver.room();
      this.#endIfAll();
    });
    this.#call.on("error", () => undefined); // the status says it, too
  }

  /** True once the call has its status: nothing that is sent now would be answered. */
  get isBroken(): boolean {
    return this.#status !== undefined || this.#isOver;
  }

  /** Opens the stream. Rejects with DulyError where the server refuses it or does not answer. */
  async open(request: OpenStream, timeoutMs: number): Promise<StreamTerms> {
    this.#write({ case: "open", value: request });
    let timer: NodeJS.Timeout | undefined;
    const opened = new Promise<StreamTerms>((resolve) => (this.#opened = resolve));
    const refused = this.ended.then((error) => {
      throw error ?? new ProtocolError("the server ended the stream in place of opening it");
    });
    const timeout = new Promise<never>((_, reject) => {
      const text = `no answer from ${this.#target} in ${Math.round(timeoutMs)} ms`;
      timer = setTimeout(() => reject(new ServerUnavailable(text)), timeoutMs);
    });
    try {
      return await Promise.race([opened, refused, timeout]);
    } catch (error) {
      this.close();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** False where a frame of `size` bytes has to wait until earlier ones went to the transport. */
  hasRoom(size: number): boolean {
    if (this.#pendingFrames === 0) return true;
    return this.#pendingFrames < PENDING_FRAMES_MAX && this.#pendingBytes + size <= PENDING_BYTES_MAX;
  }

  /** Sends a frame. Where the wall clock was set, the server learns of it before. */
  put(frame: StreamRequest): void {
    this.heedTheWallClock();
    const message = toBinary(StreamRequestSchema, frame);
    this.#pendingFrames++;
    this.#pendingBytes += message.byteLength;
    this.#call.write(message, () => {
      this.#pendingFrames--;
      this.#pendingBytes -= message.byteLength;
      this.#receiver.room();
    });
  }

  cancelFrames(frameIds: readonly number[]): void {
    this.#write({ case: "cancel", value: { $typeName: "duly.v1.CancelFrames", frameIds: frameIds.map(BigInt) } });
  }

  /** Reads no more of the call until `resume`. */
  pause(): void {
    this.#call.pause();
  }

  resume(): void {
    if (this.#call.isPaused()) this.#call.resume();
  }

  /** Half-closes the call behind all that waits. */
  finish(): void {
    clearTimeout(this.#pingTimer);
    this.#halfClosed = true;
    this.#call.end();
  }

  /** Ends the call now. */
  close(): void {
    this.#call.cancel();
    this.#end(undefined);
  }

  /** What the server sent is not what the protocol allows. */
  fail(error: DulyError): void {
    this.#failure = error;
    this.#call.cancel();
    this.#end(error);
  }

  /** Where the client's clock was set, the server learns of it before it gets the next frame. */
  heedTheWallClock(): void {
    const aheadNs = this.#wall.movedNs - this.#wallMovedNs;
    if (aheadNs === 0n) return;
    this.#wallMovedNs = this.#wall.movedNs;
    this.clock.moved(aheadNs);
    this.#pingsInARow = Math.max(this.#pingsInARow, 1);
    this.#ping();
  }

  // ---- receiving ----

  #take({ response }: StreamResponse): void {
    if (this.#isOver) return;
    try {
      if (this.#opened !== undefined) this.#begin(response);
      else if (response.case === "outcomes") this.#receiver.outcomes(response.value.outcomes);
      else if (response.case === "advice") this.#receiver.advice(adviceOf(response.value));
      else if (response.case === "clockPong") this.#learn(response.value);
    } catch (error) {
      if (!(error instanceof DulyError)) throw error;
      this.fail(error);
    }
  }

  #begin(response: StreamResponse["response"]): void {
    if (response.case !== "opened")
      throw new ProtocolError(`the stream began with ${response.case} in place of opened`);
    this.#opened?.(termsOf(response.value));
    this.#opened = undefined;
    this.#ping();
  }

  #endIfAll(): void {
    if (this.#status === undefined || !this.#allRead) return;
    this.#end(this.#failure ?? (this.#status.code === status.OK ? undefined : errorOf(this.#status, this.#target)));
  }

  #end(error: DulyError | undefined): void {
    this.#isOver = true;
    clearTimeout(this.#pingTimer);
    this.#related();
    this.#over(error);
    this.#receiver.room();
  }

  // ---- clock ----

  #ping(): void {
    if (this.isBroken || this.#halfClosed) return;
    clearTimeout(this.#pingTimer);
    const nowNs = this.#wall.nowNs();
    if (this.#wall.movedNs !== this.#wallMovedNs) return this.heedTheWallClock();
    this.#pingMovedNs = this.#wall.movedNs;
    // The server uses the estimate until the next one comes, so it must hold until then.
    const estimate = this.clock.estimate(nowNs + BigInt(PING_PERIOD_MS) * 1_000_000n);
    this.#write({
      case: "clockPing",
      value: {
        $typeName: "duly.v1.ClockPing",
        pingId: ++this.#pingId,
        clientSendUnixNano: nowNs,
        ...(estimate && {
          clock: {
            $typeName: "duly.v1.ClockEstimate",
            offsetNano: estimate.offsetNs,
            uncertaintyNano: estimate.uncertaintyNs,
          },
        }),
      },
    });
  }

  #learn(pong: ClockPong): void {
    const receivedNs = this.#wall.nowNs();
    this.heedTheWallClock();
    if (pong.pingId !== this.#pingId) return; // another ping followed it at once
    const sentNs = pong.clientSendUnixNano + this.#wall.movedNs - this.#pingMovedNs;
    if (this.clock.add(sentNs, pong.serverReceiveUnixNano, pong.serverSendUnixNano, receivedNs)) {
      this.#pingsInARow = PINGS_AT_OPEN; // a clock was set: the server shall know at once, and well
    }
    this.#pingsInARow = Math.max(0, this.#pingsInARow - 1);
    if (this.#pingsInARow > 0) this.#ping();
    else this.#pingTimer = setTimeout(() => this.#ping(), PING_PERIOD_MS).unref();
    this.#related(); // the ping that has the estimate goes before any frame
  }

  #write(request: StreamRequest["request"]): void {
    this.#call.write(toBinary(StreamRequestSchema, create(StreamRequestSchema, { request })));
  }
}
