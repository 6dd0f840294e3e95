/** Labels of frames: what was right, sent when somebody knows, and what became of them. */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Metadata, status, type Client as Channel, type ServiceError } from "@grpc/grpc-js";
import { errorOf } from "./errors.js";
import {
  FeedbackRequestSchema,
  FeedbackResponseSchema,
  FeedbackStatus as WireStatus,
  FrameFeedbackSchema,
  type FeedbackRequest,
  type FeedbackResponse,
  type FrameFeedback,
} from "./gen/duly/v1/inference_pb.js";
import { DataType as WireType, TensorSchema } from "./gen/duly/v1/tensor_pb.js";
import { bytesOf, tensor, Tensor, type Elements } from "./tensors.js";

/** Under what a class is sent that is given without a name. */
const CLASS = "label";
/** One message has labels of no more frames or bytes, and no more labels; more go in several. */
export const ITEMS_MAX = 1024;
export const BYTES_MAX = 2 * 1024 * 1024;
export const LABELS_MAX = 4096;
const CALL_TIMEOUT_MS = 30_000;
const METHOD = "/duly.v1.InferenceService/Feedback";

/** What is right: a class by its number or its name, or values by the names of outputs. */
export type Label = number | string | { readonly [output: string]: number | string | Elements | Tensor };

/** The label of one frame. */
export interface Feedback {
  /** `Stream.keyOf` of the frame. It holds for good, whatever becomes of the stream. */
  readonly streamKey: string;
  readonly frameId: number;
  readonly label: Label;
  /** How much it counts; 1 where not stated. */
  readonly weight?: number;
  /** Where it is from, for who judges labels by that. */
  readonly source?: string;
}

/** What became of a label; PENDING and NOT_KEPT are worth sending again. */
export type FeedbackStatus = Exclude<keyof typeof WireStatus, "UNSPECIFIED">;

export interface FeedbackResult {
  readonly status: FeedbackStatus;
  /** Why it was not joined, for people. */
  readonly reason: string;
}

/** Sends labels over a channel, and resolves with what became of each. Rejects with DulyError. */
export async function sendFeedback(
  channel: Channel,
  target: string,
  token: string,
  items: readonly Feedback[],
): Promise<FeedbackResult[]> {
  const results: FeedbackResult[] = [];
  for (const request of requestsOf(items)) {
    for (const result of (await call(channel, target, token, request)).results) {
      const name = WireStatus[result.status] as keyof typeof WireStatus | undefined;
      const known = name !== undefined && name !== "UNSPECIFIED"; // else it is a status of a newer server
      results.push({ status: known ? name : "PENDING", reason: result.reason });
    }
  }
  return results;
}

function call(channel: Channel, target: string, token: string, request: FeedbackRequest): Promise<FeedbackResponse> {
  const metadata = new Metadata();
  if (token !== "") metadata.set("authorization", `Bearer ${token}`);
  return new Promise((resolve, reject) => {
    channel.makeUnaryRequest(
      METHOD,
      (message: Uint8Array) => Buffer.from(message.buffer, message.byteOffset, message.byteLength),
      (message: Buffer) => fromBinary(FeedbackResponseSchema, message),
      toBinary(FeedbackRequestSchema, request),
      metadata,
      { deadline: Date.now() + CALL_TIMEOUT_MS },
      (error: ServiceError | null, response?: FeedbackResponse) => {
        if (response !== undefined) return resolve(response);
        const { code, details, metadata } = error ?? { code: status.UNKNOWN, details: "", metadata: new Metadata() };
        reject(errorOf({ code, details, metadata }, target));
      },
    );
  });
}

/** The messages with these labels, in their order. Throws TypeError and RangeError where a label can be none. */
export function requestsOf(items: readonly Feedback[]): FeedbackRequest[] {
  const requests: FeedbackRequest[] = [];
  let [bytes, labels] = [0, 0];
  for (const item of items) {
    const message = messageOf(item);
    const size = toBinary(FrameFeedbackSchema, message).length;
    let last = requests.at(-1);
    const full = (last?.items.length ?? 0) >= ITEMS_MAX || labels + message.labels.length > LABELS_MAX;
    if (last === undefined || full || bytes + size > BYTES_MAX) {
      last = create(FeedbackRequestSchema);
      requests.push(last);
      [bytes, labels] = [0, 0];
    }
    last.items.push(message);
    bytes += size;
    labels += message.labels.length;
  }
  return requests;
}

function messageOf({ streamKey, frameId, label, weight = 1, source = "" }: Feedback): FrameFeedback {
  if (streamKey === "") {
    throw new RangeError("streamKey is empty: the server keeps no frames of the model (duly serve --sample, --learn)");
  }
  if (!(weight > 0)) throw new RangeError(`weight is ${weight}, expected more than 0`);
  const values = typeof label === "object" ? Object.entries(label) : [[CLASS, label] as const];
  return create(FrameFeedbackSchema, {
    streamKey,
    frameId: BigInt(frameId),
    labels: values.map(([name, value]) => {
      const { data, shape, datatype } = arrayOf(value);
      return create(TensorSchema, {
        name,
        datatype: WireType[datatype],
        shape: shape.map(BigInt),
        data: bytesOf(data),
      });
    }),
    weight,
    source,
  });
}

/** One element of its own has no dimension; a whole number is INT64, any other FP32. */
function arrayOf(value: number | string | Elements | Tensor): Tensor {
  if (value instanceof Tensor) return value;
  if (typeof value === "string") return tensor([value]);
  if (typeof value === "number") {
    return tensor(Number.isInteger(value) ? BigInt64Array.of(BigInt(value)) : Float32Array.of(value));
  }
  return tensor(value, [value.length]);
}
