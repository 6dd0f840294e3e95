/**
 * A stream as the application sees it: frames in, exactly one outcome a frame out, over as many calls as it takes.
 *
 * Bounds: no more than the in-flight credit of outcomes wait to be read; then reading from the wire stops. No more than
 * HELD_MAX frames are unanswered or unread together, and no more than `connection` says wait for the transport; then
 * `send` waits and `trySend` returns undefined. A frame is never sent twice: when the connection is lost, those in
 * flight are CANCELLED.
 */
import { create } from "@bufbuild/protobuf";
import type { ClockEstimate } from "./clock.js";
import { Connection, type Receiver } from "./connection.js";
import { ClientTooSlow, DulyError, ServerUnavailable } from "./errors.js";
import { Frames } from "./frames.js";
import { FrameSchema, StreamRequestSchema, type Frame, type OpenStream } from "./gen/duly/v1/inference_pb.js";
import { Pace } from "./pace.js";
import { inputsOf, type Payload } from "./tensors.js";
import type { Advice, Outcome, StreamTerms } from "./types.js";
import { WallClock } from "./wall-clock.js";

/** How long opening waits for the clocks to be related. Until they are, budgets count from receipt. */
const CLOCK_WAIT_MS = 1000;
/** Pauses between two tries to connect. They double, and each is shortened at random by up to a half. */
const BACKOFF_MIN_MS = 100;
const BACKOFF_MAX_MS = 5000;
/** No pause is longer while the application waits for the stream to open for the first time. */
const OPEN_PAUSE_MAX_MS = 1000;
/** How long `send` waits for an application that reads no outcomes. */
const UNREAD_WAIT_MS = 10_000;
/** More than the fields of a frame and of the messages around it take, all but its inputs. */
const FIELDS_BYTES_MAX = 256;

/** How one frame is sent. */
export interface SendOptions {
  /** When the frame was captured, by the wall clock, ns since 1970; not stated: now. */
  readonly captureTimeNs?: bigint;
  /** How long after capture the result is worth having, ms; not stated: the stream's. */
  readonly budgetMs?: number;
  /** True: newer frames never supersede this one, and advice does not keep it back. */
  readonly mustRun?: boolean;
}

/** What a stream is made of; the client states it. */
export interface StreamSetup {
  readonly connect: (wall: WallClock, receiver: Receiver) => Connection;
  readonly mayRecover: (error: DulyError) => boolean;
  readonly request: OpenStream;
  readonly onAdvice: ((advice: Advice) => void) | undefined;
  readonly followAdvice: boolean;
  readonly reconnect: boolean;
  readonly reconnectTriesMax: number;
  readonly openTimeoutMs: number;
}

interface Asked {
  readonly frame: Frame;
  readonly size: number;
  readonly askedNs: number;
  readonly capturedNs: number;
  readonly wallMovedNs: bigint;
}

export class Stream implements AsyncIterable<Outcome> {
  readonly #setup: StreamSetup;
  readonly #wall = new WallClock();
  readonly #frames = new Frames(() => this.#read());
  readonly #receiver: Receiver;
  #terms: StreamTerms | undefined;
  #connection: Connection | undefined;
  #newest: Connection | undefined;
  #pace = new Pace();
  #lostReason = "";
  #tries = 0;
  /** Set once the stream is finished or closed: it takes no more frames and does not reconnect. */
  #stopping = false;
  #error: Error | undefined;
  #wakeRunner: (() => void) | undefined;
  #over!: () => void;
  /** Resolves when nothing more comes. */
  readonly closed: Promise<void> = new Promise((resolve) => (this.#over = resolve));
  #waiting: (() => void)[] = [];

  private constructor(setup: StreamSetup) {
    this.#setup = setup;
    this.#receiver = {
      outcomes: (outcomes) => {
        this.#frames.answered(outcomes, steadyNs());
        if (this.#frames.unread >= this.#frames.unreadMax) this.#connection?.pause();
        this.#changed();
      },
      advice: (advice) => this.#advise(advice),
      room: () => this.#changed(),
    };
  }

  /** @internal Clients open streams. */
  static async open(setup: StreamSetup): Promise<Stream> {
    const stream = new Stream(setup);
    const connection = await stream.#openFirst();
    void stream.#run(connection);
    let timer: NodeJS.Timeout | undefined;
    const given = new Promise<void>((resolve) => (timer = setTimeout(resolve, CLOCK_WAIT_MS)));
    await Promise.race([connection.clockRelated, given]);
    clearTimeout(timer);
    return stream;
  }

  /** Terms that were agreed; after a reconnection, those agreed then. */
  get opened(): StreamTerms {
    return this.#terms as StreamTerms;
  }

  /**
   * By what `Feedback` names the stream for that frame. It holds for good, so that whoever learns later what was right
   * keeps it together with the frame's id. "": the server keeps no frames of the model.
   */
  keyOf(frameId: number): string {
    return this.#frames.keyOf(frameId);
  }

  /** The server's wall clock minus the client's, and its uncertainty; undefined while that is unknown. */
  get clock(): ClockEstimate | undefined {
    return this.#connection?.clock.estimate(this.#wall.nowNs());
  }

  /** Frames that the server has not answered. */
  get inFlight(): number {
    return this.#frames.inFlight;
  }

  // ---- sending ----

  /**
   * Sends a frame and resolves with its id. Its outcome comes by iteration. The payload may be changed after that.
   *
   * Waits while the transport is full. While the connection is lost it waits no longer than the budget; then the frame
   * is CANCELLED. With `followAdvice` a frame that comes faster than the server advises is not sent but SUPERSEDED
   * here, unless it must run. Rejects with TypeError or RangeError where the frame cannot be sent, with ClientTooSlow
   * where nobody reads the outcomes, and with the error that ended the stream where it has ended.
   */
  async send(payload: Payload, options: SendOptions = {}): Promise<number> {
    const asked = this.#ask(payload, options);
    let frameId = this.#waiting.length === 0 ? this.#sendNow(asked) : undefined;
    while (frameId === undefined) frameId = (await this.#change(asked)) ? this.#sendNow(asked) : this.#cancelled(asked);
    return frameId;
  }

  /**
   * Sends a frame and returns its id; undefined, at once, where there is no room: where `send` would wait, or the
   * server would shed the frame because as much as the stream's credit is unanswered. Throws what `send` rejects with.
   */
  trySend(payload: Payload, options: SendOptions = {}): number | undefined {
    const asked = this.#ask(payload, options);
    const noRoom = this.#waiting.length > 0 || !this.#frames.isWithinCredit(asked.size);
    return noRoom ? undefined : this.#sendNow(asked);
  }

  /** Withdraws frames that still wait; each of them is answered all the same. Other ids are ignored. */
  cancel(frameIds: Iterable<number>): void {
    const inFlight = [...frameIds].filter((frameId) => this.#frames.isInFlight(frameId));
    if (inFlight.length > 0 && this.#connection?.isBroken === false) this.#connection.cancelFrames(inFlight);
  }

  #ask(payload: Payload, { captureTimeNs, budgetMs, mustRun = false }: SendOptions): Asked {
    const wallNs = this.#wall.nowNs();
    const askedNs = steadyNs();
    const captureNs = captureTimeNs ?? wallNs;
    if (captureNs <= 0n) throw new RangeError(`captureTimeNs: expected nanoseconds since 1970, not ${captureTimeNs}`);
    const budgetNano = nanoseconds("budgetMs", budgetMs);
    const inputs = inputsOf(payload);
    let size = FIELDS_BYTES_MAX;
    for (const { name, data } of [...inputs.tensors, ...inputs.encoded]) size += data.byteLength + name.length * 3 + 64;
    const max = this.opened.messageBytesMax;
    if (max > 0 && size > max)
      throw new RangeError(`the frame takes about ${size} bytes; the server reads up to ${max}`);
    const frame = create(FrameSchema, { captureTimeUnixNano: captureNs, budgetNano, mustRun, ...inputs });
    const capturedNs = askedNs - Number(wallNs - captureNs);
    return { frame, size, askedNs, capturedNs, wallMovedNs: this.#wall.movedNs };
  }

  /** Sends a frame and returns its id; undefined where it has to wait. */
  #sendNow({ frame, size, capturedNs, wallMovedNs }: Asked): number | undefined {
    if (this.#stopping) throw this.#error ?? new TypeError("the stream takes no more frames: it is finished or closed");
    const connection = this.#connection;
    if (connection === undefined || connection.isBroken || this.#frames.room <= 0) return undefined;
    const nowNs = steadyNs();
    if (!frame.mustRun && !this.#pace.due(nowNs)) {
      const frameId = this.#frames.nextId();
      this.#frames.keepBack(frameId, capturedNs, nowNs, this.#pace.periodNs);
      return frameId;
    }
    if (!connection.hasRoom(size)) return undefined;
    this.#wall.nowNs(); // looks whether the clock was set
    const movedNs = this.#wall.movedNs - wallMovedNs;
    if (movedNs !== 0n) frame.captureTimeUnixNano += movedNs;
    const frameId = this.#frames.nextId();
    frame.frameId = BigInt(frameId);
    this.#frames.sent(frameId, capturedNs, size);
    connection.put(
      create(StreamRequestSchema, {
        request: { case: "frames", value: { $typeName: "duly.v1.FrameBatch", frames: [frame] } },
      }),
    );
    if (this.#pace.periodNs > 0) this.#pace.sent(nowNs);
    return frameId;
  }

  #cancelled({ capturedNs }: Asked): number {
    const frameId = this.#frames.nextId();
    this.#frames.resolve(frameId, "CANCELLED", steadyNs() - capturedNs, `not sent, ${this.#lostReason}`);
    return frameId;
  }

  /** Waits until something changes. False: the connection is lost and did not come back within the budget. */
  async #change({ frame, askedNs }: Asked): Promise<boolean> {
    const full = this.#frames.room <= 0;
    let waitMs: number | undefined;
    if (full) waitMs = UNREAD_WAIT_MS;
    else if (this.#connection === undefined || this.#connection.isBroken) {
      const budgetNs = Number(frame.budgetNano) || this.opened.defaultBudgetNs;
      waitMs = (askedNs + budgetNs - steadyNs()) / 1e6;
      if (waitMs <= 0) return false;
    }
    let timer: NodeJS.Timeout | undefined;
    const changed = await new Promise<boolean>((resolve) => {
      this.#waiting.push(() => resolve(true));
      if (waitMs !== undefined) timer = setTimeout(() => resolve(false), Math.min(waitMs, 2 ** 31 - 1));
    });
    clearTimeout(timer);
    if (!changed && full && this.#frames.unread >= this.#frames.unreadMax) {
      throw new ClientTooSlow(`${this.#frames.unread} outcomes are unread: iterate over the stream while you send`);
    }
    return true;
  }

  #changed(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const wake of waiting) wake();
  }

  // ---- outcomes ----

  /**
   * The next outcome; undefined after `finish` when all came, and after `close`. Where an error ended the stream, it
   * rejects with that after the outcomes of all frames.
   */
  receive(): Promise<Outcome | undefined> {
    return this.#frames.take();
  }

  /** Iterates as `receive` does. Leaving the loop leaves the stream open, and another loop goes on. */
  [Symbol.asyncIterator](): AsyncIterator<Outcome, undefined> {
    return {
      next: async () => {
        const value = await this.#frames.take();
        return value === undefined ? { done: true, value } : { done: false, value };
      },
    };
  }

  #read(): void {
    if (this.#frames.unread < this.#frames.unreadMax) this.#connection?.resume();
    this.#changed();
  }

  // ---- the life of the stream ----

  /** Declares that no more frames follow; iteration ends after the last outcome. */
  finish(): void {
    if (this.#stopping) return;
    this.#stop();
    if (this.#connection?.isBroken === false) this.#connection.finish();
  }

  /** Ends the stream now: frames in flight are withdrawn, and outcomes that were not read are dropped. */
  close(): void {
    this.#stop();
    this.#frames.drop();
    this.#newest?.close();
    this.#frames.end(this.#error);
  }

  #stop(): void {
    this.#stopping = true;
    this.#wakeRunner?.();
    this.#changed();
  }

  /**
   * Opens the stream for the first time, as it is opened again later: what may pass is tried again, as long as the time
   * to open lasts. A refusal by admission is no such thing: it says what would fit, which the application decides on.
   */
  async #openFirst(): Promise<Connection> {
    const giveUpMs = performance.now() + this.#setup.openTimeoutMs;
    for (let tries = 0; ; tries++) {
      try {
        return await this.#connect(giveUpMs - performance.now());
      } catch (error) {
        const pauseMs = Math.min(OPEN_PAUSE_MAX_MS, backoffMs(tries));
        const passes =
          error instanceof DulyError && this.#setup.mayRecover(error) && error.reason !== "ADMISSION_REFUSED";
        const usedUp = !this.#setup.reconnect || tries >= this.#setup.reconnectTriesMax;
        if (!passes || usedUp || performance.now() + pauseMs >= giveUpMs) throw error;
        await new Promise((resolve) => setTimeout(resolve, pauseMs));
      }
    }
  }

  /** Goes from one connection to the next until the stream ends. */
  async #run(first: Connection): Promise<void> {
    let connection: Connection | undefined = first;
    try {
      while (connection !== undefined) {
        const openedMs = performance.now();
        const error: DulyError = (await connection.ended) ?? new ServerUnavailable("the server ended the stream");
        this.#connection = undefined;
        const recoverable = this.#setup.mayRecover(error);
        this.#lostReason = recoverable ? `connection lost: ${error.message}` : `stream ended: ${error.message}`;
        this.#frames.cancelInFlight(steadyNs(), this.#lostReason);
        this.#changed();
        if (performance.now() - openedMs > BACKOFF_MAX_MS) this.#tries = 0; // it was a good connection
        connection = await this.#reconnect(error);
      }
    } catch (error) {
      this.#error = error as Error;
    }
    this.#stopping = true;
    this.#frames.end(this.#error);
    this.#changed();
    this.#over();
  }

  /** Opens a new connection after `error` ended the last one; undefined: the stream is finished. */
  async #reconnect(error: DulyError): Promise<Connection | undefined> {
    while (!this.#stopping) {
      const { reconnect, reconnectTriesMax, openTimeoutMs } = this.#setup;
      if (!this.#setup.mayRecover(error) || !reconnect || this.#tries >= reconnectTriesMax) throw error;
      const pauseMs = backoffMs(this.#tries++);
      await new Promise<void>((resolve) => {
        this.#wakeRunner = resolve;
        setTimeout(resolve, pauseMs);
      });
      if (this.#stopping) return undefined;
      try {
        const connection = await this.#connect(openTimeoutMs);
        if (this.#stopping) connection.finish();
        return connection;
      } catch (failure) {
        if (!(failure instanceof DulyError)) throw failure;
        error = failure;
        this.#lostReason = `connection lost: ${error.message}`;
      }
    }
    return undefined;
  }

  async #connect(timeoutMs: number): Promise<Connection> {
    const connection = this.#setup.connect(this.#wall, this.#receiver);
    this.#newest = connection;
    this.#terms = await connection.open(this.#setup.request, timeoutMs);
    this.#connection = connection;
    this.#pace = new Pace(); // nothing has been advised there
    this.#frames.agreed(this.#terms);
    this.#changed();
    return connection;
  }

  #advise(advice: Advice): void {
    if (this.#setup.followAdvice && (advice.kind === "SLOW_DOWN" || advice.kind === "SPEED_UP")) {
      this.#pace.advised(steadyNs(), advice.periodNs, Math.random());
    }
    const { onAdvice } = this.#setup;
    if (onAdvice !== undefined) queueMicrotask(() => onAdvice(advice));
  }
}

/** Nanoseconds of a clock that never goes back. */
function steadyNs(): number {
  return Math.round(performance.now() * 1e6);
}

/** The pause after so many failed tries. */
function backoffMs(tries: number): number {
  return Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** Math.min(tries, 10)) * (0.5 + Math.random() / 2);
}

/** Nanoseconds as the protocol states them; not stated: 0. Throws RangeError where no time is that long. */
export function nanoseconds(argument: string, milliseconds: number | undefined): bigint {
  if (milliseconds === undefined) return 0n;
  const ns = Math.round(milliseconds * 1e6);
  if (!(ns >= 1 && ns < 2 ** 63))
    throw new RangeError(`${argument}: expected milliseconds, more than 0, not ${milliseconds}`);
  return BigInt(ns);
}
