/** What the client gives back: outcomes, the terms of a stream, advice. */
import type { DataType, Encoding, Tensor } from "./tensors.js";
import { tensorOf } from "./tensors.js";
import {
  BacklogPolicy as WireBacklog,
  GapPolicy as WireGap,
  Ordering as WireOrdering,
  OutcomeStatus,
  StreamAdvice_Kind,
  StreamClass as WireClass,
  type Outcome as WireOutcome,
  type StreamAdvice,
  type StreamOpened,
} from "./gen/duly/v1/inference_pb.js";
import { DataType as WireType, EncodedFormat, type TensorSpec as WireSpec } from "./gen/duly/v1/tensor_pb.js";

export type StreamClass = Exclude<keyof typeof WireClass, "UNSPECIFIED">;
export type BacklogPolicy = Exclude<keyof typeof WireBacklog, "UNSPECIFIED">;
export type Ordering = Exclude<keyof typeof WireOrdering, "UNSPECIFIED">;
export type GapPolicy = Exclude<keyof typeof WireGap, "UNSPECIFIED">;
/** How a frame ended. Only ON_TIME and LATE carry outputs. */
export type Status = Exclude<keyof typeof OutcomeStatus, "UNSPECIFIED">;
export type AdviceKind = Exclude<keyof typeof StreamAdvice_Kind, "UNSPECIFIED">;

/** Times of one frame on the server, ns since its receipt unless stated otherwise; 0: it did not get there. */
export interface Timing {
  /** Server wall clock at receipt, ns since 1970. */
  readonly receivedUnixNs: bigint;
  /** When its batch was given to a worker. */
  readonly dispatchedNs: number;
  /** When the worker began with the batch. */
  readonly startedNs: number;
  /** When the worker was done with the batch. */
  readonly finishedNs: number;
  /** When the outcome was handed to the transport. */
  readonly sentNs: number;
  /** Time from capture to receipt; 0 where the clocks are not related. */
  readonly captureToReceiptNs: number;
  /** Uncertainty of `captureToReceiptNs`; 0 where the clocks are not related. */
  readonly clockUncertaintyNs: number;
}

/** The one terminal answer to a frame. */
export class Outcome {
  readonly #message: WireOutcome | undefined;
  #outputs: ReadonlyMap<string, Tensor> | undefined;

  constructor(
    readonly frameId: number,
    readonly status: Status,
    /** Time from capture to the arrival of the outcome, on the client's clock, ns. */
    readonly latencyNs: number,
    /** Why there is no result in time, for people; "" where there is one. */
    readonly reason: string,
    message?: WireOutcome,
  ) {
    this.#message = message;
  }

  /** True where there is a result: ON_TIME or LATE. */
  get ok(): boolean {
    return this.status === "ON_TIME" || this.status === "LATE";
  }

  /** Outputs by name, made when they are first asked for. Throws ProtocolError where bytes do not fill their shape. */
  get outputs(): ReadonlyMap<string, Tensor> {
    this.#outputs ??= new Map(this.#message?.outputs.map((output) => [output.name, tensorOf(output)]));
    return this.#outputs;
  }

  /** Version that ran on the frame; "": none did. */
  get version(): string {
    return this.#message?.version ?? "";
  }

  /** Variant that ran on the frame; "": none did. */
  get variant(): string {
    return this.#message?.variant ?? "";
  }

  /** Number of frames in the batch that the frame ran in; 0: it did not run. */
  get batchSize(): number {
    return this.#message?.batchSize ?? 0;
  }

  /** Deadline minus the time at which the server sent the outcome, ns; negative: too late. */
  get slackNs(): number {
    return Number(this.#message?.slackNano ?? 0);
  }

  /** Names of the model's guards that found something on the frame, with a result and with INVALID. */
  get guards(): readonly string[] {
    return this.#message?.guards ?? [];
  }

  get timing(): Timing {
    const timing = this.#message?.timing;
    return {
      receivedUnixNs: timing?.receivedUnixNano ?? 0n,
      dispatchedNs: Number(timing?.dispatchedNano ?? 0),
      startedNs: Number(timing?.startedNano ?? 0),
      finishedNs: Number(timing?.finishedNano ?? 0),
      sentNs: Number(timing?.sentNano ?? 0),
      captureToReceiptNs: Number(timing?.captureToReceiptNano ?? 0),
      clockUncertaintyNs: Number(timing?.clockUncertaintyNano ?? 0),
    };
  }
}

/** Makes an outcome from its message. A status that this client does not know becomes FAILED. */
export function outcomeOf(message: WireOutcome, latencyNs: number): Outcome {
  const known = message.status !== OutcomeStatus.UNSPECIFIED && OutcomeStatus[message.status] !== undefined;
  const status = known ? (OutcomeStatus[message.status] as Status) : "FAILED";
  return new Outcome(Number(message.frameId), status, latencyNs, message.reason, message);
}

/** What an input takes or an output gives, for one frame. */
export interface TensorSpec {
  readonly name: string;
  readonly datatype: DataType;
  /** Extent of each dimension, without the batch dimension; -1: any. */
  readonly shape: readonly number[];
  /** Inputs: formats that are accepted in place of an array. */
  readonly encodings: readonly Encoding[];
  /** Outputs: names of the classes that an index stands for; empty: not stated. */
  readonly labels: readonly string[];
  /** Inputs that take sound: the sample rate; 0: no sound. */
  readonly sampleRateHz: number;
  /** Inputs: NaN and infinities make a frame INVALID. */
  readonly finite: boolean;
}

/** Terms that were agreed when the stream opened. */
export interface StreamTerms {
  /** The number by which the server's logs call the stream. */
  readonly streamId: bigint;
  /** By what labels name the stream; "": the server keeps no frames of the model. */
  readonly streamKey: string;
  readonly version: string;
  readonly inputs: readonly TensorSpec[];
  readonly outputs: readonly TensorSpec[];
  /** Variants that may serve the stream, the most accurate first. */
  readonly variants: readonly string[];
  readonly streamClass: StreamClass;
  readonly backlog: BacklogPolicy;
  readonly backlogFrames: number;
  readonly ordering: Ordering;
  /** Gap policy of a stateful model. */
  readonly gap: GapPolicy | undefined;
  readonly defaultBudgetNs: number;
  /** Planned execution time of a batch of one, ns: no result comes sooner. */
  readonly plannedLatencyNs: number;
  /** Time from receipt to result while the lanes are as busy as planned, ns; 0: not predicted. */
  readonly predictedLatencyNs: number;
  /** Share of the fullest lanes' time that is asked for; 1: all of it, 0: the stream stated no period. */
  readonly utilisation: number;
  /** Frames that may be unanswered at any time; further ones are SHED. */
  readonly framesInFlightMax: number;
  /** Bytes of payload that may be unanswered at any time. */
  readonly bytesInFlightMax: number;
  /** Largest message the server reads, bytes. */
  readonly messageBytesMax: number;
  /** Why the server would rather not have opened the stream; "": nothing speaks against it. */
  readonly admissionWarning: string;
}

export function termsOf(message: StreamOpened): StreamTerms {
  return {
    streamId: message.streamId,
    streamKey: message.streamKey,
    version: message.version,
    inputs: message.inputs.map(specOf),
    outputs: message.outputs.map(specOf),
    variants: message.variants,
    streamClass: WireClass[message.streamClass] as StreamClass,
    backlog: WireBacklog[message.backlogPolicy] as BacklogPolicy,
    backlogFrames: message.backlogFrames,
    ordering: WireOrdering[message.ordering] as Ordering,
    gap: message.gapPolicy === WireGap.UNSPECIFIED ? undefined : (WireGap[message.gapPolicy] as GapPolicy),
    defaultBudgetNs: Number(message.defaultBudgetNano),
    plannedLatencyNs: Number(message.plannedLatencyNano),
    predictedLatencyNs: Number(message.predictedLatencyNano),
    utilisation: message.utilisation,
    framesInFlightMax: message.framesInFlightMax,
    bytesInFlightMax: Number(message.bytesInFlightMax),
    messageBytesMax: Number(message.messageBytesMax),
    admissionWarning: message.admissionWarning,
  };
}

function specOf(message: WireSpec): TensorSpec {
  return {
    name: message.name,
    datatype: WireType[message.datatype] as DataType,
    shape: message.shape.map(Number),
    encodings: message.encodedFormats.map((format) => EncodedFormat[format] as Encoding),
    labels: message.labels,
    sampleRateHz: message.sampleRateHz,
    finite: message.finite,
  };
}

/** Something that the server advises the client to act on. */
export interface Advice {
  readonly kind: AdviceKind;
  /** SLOW_DOWN and SPEED_UP: the shortest period, on average, that can be served, ns; 0: any. */
  readonly periodNs: number;
  /** Version that serves the stream; after VERSION_CHANGED the new one. */
  readonly version: string;
  /** Why, for people. */
  readonly reason: string;
}

export function adviceOf(message: StreamAdvice): Advice {
  const kind = StreamAdvice_Kind[message.kind] as AdviceKind;
  return { kind, periodNs: Number(message.periodNano), version: message.version, reason: message.reason };
}
