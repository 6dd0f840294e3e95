/**
 * What became of the frames of a stream: those without an outcome, and outcomes that wait for the application.
 *
 * Each frame that was given an id has exactly one outcome, whether the server gives it or this client does. Outcomes
 * are given out once each, in the order in which they came.
 */
import { ProtocolError } from "./errors.js";
import type { Outcome as WireOutcome } from "./gen/duly/v1/inference_pb.js";
import { Outcome, outcomeOf, type Status, type StreamTerms } from "./types.js";

/** Limit of unanswered and unread frames together, many times what is of use to a sensor. */
export const HELD_MAX = 4096;
/** Of a stream that was opened again so often, earlier frames can be labelled no more by its keys. */
export const KEYS_MAX = 64;

interface InFlight {
  /** Capture time on the steady clock, ns. */
  readonly capturedNs: number;
  readonly size: number;
}

export class Frames {
  #credit = HELD_MAX;
  /** How many outcomes may wait for the application before no more are received. */
  unreadMax = 1;
  #nextId = 1;
  /** Each key that the stream had, with the first id of the frames that it is for, the newest first. */
  #keys: { readonly firstId: number; readonly key: string }[] = [];
  #inOrder = false;
  /** By the id of the frame, in the order of the ids. */
  readonly #inFlight = new Map<number, InFlight>();
  #creditBytes = 0;
  #bytesInFlight = 0;
  /** SUPERSEDED here; with the ordering ARRIVAL they wait for the outcomes of earlier frames. */
  #keptBack: Outcome[] = [];
  #unread: Outcome[] = [];
  #reader: { resolve: (outcome: Outcome | undefined) => void; reject: (error: unknown) => void } | undefined;
  #ended = false;
  #error: Error | undefined;
  readonly #onRead: () => void;

  /** `onRead` is called whenever the application has taken an outcome. */
  constructor(onRead: () => void) {
    this.#onRead = onRead;
  }

  /** How many more frames may be held. */
  get room(): number {
    return HELD_MAX - this.#inFlight.size - this.#keptBack.length - this.#unread.length;
  }

  get inFlight(): number {
    return this.#inFlight.size;
  }

  /** Whether the server lets a frame of so many bytes be unanswered, too; else it sheds it. */
  isWithinCredit(size: number): boolean {
    if (this.#inFlight.size >= this.#credit) return false;
    return this.#creditBytes === 0 || this.#inFlight.size === 0 || this.#bytesInFlight + size <= this.#creditBytes;
  }

  get unread(): number {
    return this.#unread.length;
  }

  agreed(terms: StreamTerms): void {
    this.#credit = terms.framesInFlightMax > 0 ? terms.framesInFlightMax : HELD_MAX;
    this.#creditBytes = terms.bytesInFlightMax;
    this.unreadMax = Math.min(this.#credit, HELD_MAX / 2);
    this.#inOrder = terms.ordering === "ARRIVAL";
    this.#keys = [{ firstId: this.#nextId, key: terms.streamKey }, ...this.#keys.slice(0, KEYS_MAX - 1)];
  }

  /** By what the label of a frame names the stream; "": none. */
  keyOf(frameId: number): string {
    return this.#keys.find(({ firstId }) => frameId >= firstId)?.key ?? "";
  }

  /** The id of the next frame, which is to be sent, cancelled or kept back now. */
  nextId(): number {
    return this.#nextId++;
  }

  sent(frameId: number, capturedNs: number, size: number): void {
    this.#inFlight.set(frameId, { capturedNs, size });
    this.#bytesInFlight += size;
  }

  /** Whether the server has not answered the frame. */
  isInFlight(frameId: number): boolean {
    return this.#inFlight.has(frameId);
  }

  /** The frame is not sent, as the server advised a period: the next one that is due takes its place. */
  keepBack(frameId: number, capturedNs: number, nowNs: number, periodNs: number): void {
    const reason = `not sent, the server advised a period of ${Number((periodNs / 1e6).toPrecision(4))} ms`;
    this.#keptBack.push(new Outcome(frameId, "SUPERSEDED", nowNs - capturedNs, reason));
    this.#giveBack();
  }

  /** The frame has no answer of the server, and its outcome here. */
  resolve(frameId: number, status: Status, latencyNs: number, reason: string): void {
    this.#give(new Outcome(frameId, status, latencyNs, reason));
  }

  /** The server will answer none of the frames in flight. */
  cancelInFlight(nowNs: number, reason: string): void {
    this.#bytesInFlight = 0;
    for (const [frameId, { capturedNs }] of [...this.#inFlight]) {
      this.#inFlight.delete(frameId);
      this.resolve(frameId, "CANCELLED", nowNs - capturedNs, reason);
      this.#giveBack();
    }
  }

  /** The server's outcomes came. Throws ProtocolError where one is of no frame in flight. */
  answered(outcomes: readonly WireOutcome[], nowNs: number): void {
    for (const message of outcomes) {
      const sent = this.#inFlight.get(Number(message.frameId));
      if (sent === undefined) {
        throw new ProtocolError(`an outcome came for frame ${message.frameId}, which is not in flight`);
      }
      this.#inFlight.delete(Number(message.frameId));
      this.#bytesInFlight -= sent.size;
      this.#give(outcomeOf(message, nowNs - sent.capturedNs));
      this.#giveBack();
    }
  }

  /** Outcomes of frames kept back, as far as the order allows. */
  #giveBack(): void {
    let oldestId = this.#nextId;
    if (this.#inOrder) oldestId = this.#inFlight.keys().next().value ?? oldestId;
    while (this.#keptBack[0] !== undefined && this.#keptBack[0].frameId < oldestId) {
      this.#give(this.#keptBack.shift() as Outcome);
    }
  }

  #give(outcome: Outcome): void {
    const reader = this.#reader;
    if (reader === undefined) {
      this.#unread.push(outcome);
      return;
    }
    this.#reader = undefined;
    reader.resolve(outcome);
    this.#onRead();
  }

  /** Forgets the outcomes that wait. */
  drop(): void {
    this.#keptBack = [];
    this.#unread = [];
  }

  /** No more come. `error` is thrown after those that wait; undefined: they end. */
  end(error: Error | undefined): void {
    this.#ended = true;
    this.#error = error;
    const reader = this.#reader;
    this.#reader = undefined;
    if (error === undefined) reader?.resolve(undefined);
    else reader?.reject(error);
  }

  /** The next outcome; undefined once all were given out and no more come. Rejects with the error that ended them. */
  take(): Promise<Outcome | undefined> {
    const outcome = this.#unread.shift();
    if (outcome !== undefined) {
      this.#onRead();
      return Promise.resolve(outcome);
    }
    if (this.#ended) return this.#error === undefined ? Promise.resolve(undefined) : Promise.reject(this.#error);
    if (this.#reader !== undefined)
      return Promise.reject(new TypeError("somebody waits for this stream's outcomes already"));
    return new Promise((resolve, reject) => (this.#reader = { resolve, reject }));
  }
}
