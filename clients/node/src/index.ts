/** The Node client of duly: frames in, exactly one outcome for each frame out. */
export { Client, type ClientOptions, type StreamOptions } from "./client.js";
export { Clock, type ClockEstimate } from "./clock.js";
export type { Tls } from "./credentials.js";
export {
  ClientTooSlow,
  DulyError,
  InvalidRequest,
  ModelNotFound,
  ModelNotReady,
  NotAllowed,
  ProtocolError,
  ServerFault,
  ServerUnavailable,
  StreamRefused,
} from "./errors.js";
export type { Feedback, FeedbackResult, FeedbackStatus, Label } from "./feedback.js";
export { Pace } from "./pace.js";
export { type SendOptions, type Stream } from "./stream.js";
export {
  encoded,
  Encoded,
  fromBfloat16,
  tensor,
  Tensor,
  toBfloat16,
  type DataType,
  type Elements,
  type Encoding,
  type Payload,
  type TypedElements,
  type Value,
} from "./tensors.js";
export {
  Outcome,
  type Advice,
  type AdviceKind,
  type BacklogPolicy,
  type GapPolicy,
  type Ordering,
  type Status,
  type StreamClass,
  type StreamTerms,
  type TensorSpec,
  type Timing,
} from "./types.js";
