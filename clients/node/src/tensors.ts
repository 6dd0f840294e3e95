/** Arrays and encoded payloads: what frames carry in and outcomes carry out. */
import { create } from "@bufbuild/protobuf";
import { ProtocolError } from "./errors.js";
import {
  DataType as WireType,
  EncodedFormat,
  EncodedSchema,
  TensorSchema,
  type Encoded as WireEncoded,
  type Tensor as WireTensor,
} from "./gen/duly/v1/tensor_pb.js";

/** Element types, as the protocol names them. */
export type DataType = Exclude<keyof typeof WireType, "UNSPECIFIED">;

/** Formats of encoded payloads, as the protocol names them. */
export type Encoding = Exclude<keyof typeof EncodedFormat, "UNSPECIFIED">;

/** Arrays of elements. BOOL and UINT8 are Uint8Array, FP16 is Uint16Array with the bits of IEEE 754 binary16. */
export type Elements =
  | Uint8Array
  | Uint16Array
  | Uint32Array
  | BigUint64Array
  | Int8Array
  | Int16Array
  | Int32Array
  | BigInt64Array
  | Float32Array
  | Float64Array;

const ELEMENTS: Record<
  DataType,
  { new (buffer: ArrayBufferLike, at: number, length: number): Elements; BYTES_PER_ELEMENT: number }
> = {
  BOOL: Uint8Array,
  UINT8: Uint8Array,
  UINT16: Uint16Array,
  UINT32: Uint32Array,
  UINT64: BigUint64Array,
  INT8: Int8Array,
  INT16: Int16Array,
  INT32: Int32Array,
  INT64: BigInt64Array,
  FP16: Uint16Array,
  FP32: Float32Array,
  FP64: Float64Array,
};

/** An array with its shape, which has no batch dimension. */
export class Tensor {
  constructor(
    readonly data: Elements,
    readonly shape: readonly number[],
    readonly datatype: DataType,
  ) {}
}

/** A payload that the server decodes. */
export class Encoded {
  constructor(
    readonly data: Uint8Array,
    readonly format: Encoding,
  ) {}
}

/** One input of a frame. Plain bytes are a JPEG or PNG picture; other typed arrays have the model's own shape. */
export type Value = Elements | Tensor | Encoded;
/** A frame: one value for the model's only input, or values by input name. */
export type Payload = Value | { readonly [input: string]: Value };

/**
 * An array for a frame. An empty shape stands for the model's own. `datatype` is needed where the kind of array leaves
 * it open: BOOL for Uint8Array (else UINT8), FP16 for Uint16Array (else UINT16).
 */
export function tensor(data: Elements, shape: readonly number[] = [], datatype: DataType = datatypeOf(data)): Tensor {
  if (!(data instanceof ELEMENTS[datatype])) throw new TypeError(`tensor: ${datatype} is not held in ${kindOf(data)}`);
  const elements = shape.reduce((product, extent) => product * extent, 1);
  if (shape.length > 0 && elements !== data.length) {
    throw new RangeError(`tensor: [${shape.join(", ")}] has ${elements} elements, the array has ${data.length}`);
  }
  return new Tensor(data, shape, datatype);
}

/** Bytes for a frame that the server decodes, such as sound; pictures need no such words. */
export function encoded(data: Uint8Array, format: Encoding): Encoded {
  return new Encoded(data, format);
}

/** The inputs of a frame as the protocol has them. Throws TypeError where a value is none. */
export function inputsOf(payload: Payload): { tensors: WireTensor[]; encoded: WireEncoded[] } {
  const inputs: { tensors: WireTensor[]; encoded: WireEncoded[] } = { tensors: [], encoded: [] };
  const values: [string, Value][] = isValue(payload) ? [["", payload]] : Object.entries(payload);
  for (const [name, value] of values) {
    if (value instanceof Uint8Array && !(value instanceof Tensor)) {
      inputs.encoded.push(
        create(EncodedSchema, { name, format: EncodedFormat[pictureFormat(name, value)], data: value }),
      );
    } else if (value instanceof Encoded) {
      inputs.encoded.push(create(EncodedSchema, { name, format: EncodedFormat[value.format], data: value.data }));
    } else {
      const { data, shape, datatype } = value instanceof Tensor ? value : tensor(value);
      inputs.tensors.push(
        create(TensorSchema, { name, datatype: WireType[datatype], shape: shape.map(BigInt), data: bytesOf(data) }),
      );
    }
  }
  return inputs;
}

/** An output as an array: a view of the received bytes where they lie as its elements must, else a copy. */
export function tensorOf(message: WireTensor): Tensor {
  const datatype = WireType[message.datatype] as DataType | "UNSPECIFIED" | undefined;
  if (datatype === undefined || datatype === "UNSPECIFIED") {
    throw new ProtocolError(
      `output "${message.name}" has the element type ${message.datatype}, unknown to this client`,
    );
  }
  const kind = ELEMENTS[datatype];
  const shape = message.shape.map(Number);
  const length = shape.reduce((product, extent) => product * extent, 1);
  let { data } = message;
  if (length * kind.BYTES_PER_ELEMENT !== data.byteLength) {
    throw new ProtocolError(
      `output "${message.name}": ${data.byteLength} bytes do not fill [${shape.join(", ")}] of ${datatype}`,
    );
  }
  if (data.byteOffset % kind.BYTES_PER_ELEMENT !== 0) data = new Uint8Array(data);
  return new Tensor(new kind(data.buffer, data.byteOffset, length), shape, datatype);
}

function isValue(payload: Payload): payload is Value {
  return ArrayBuffer.isView(payload) || payload instanceof Tensor || payload instanceof Encoded;
}

function bytesOf(data: Elements): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

function pictureFormat(name: string, data: Uint8Array): Encoding {
  if (data[0] === 0xff && data[1] === 0xd8 && data[2] === 0xff) return "JPEG";
  if (data[0] === 0x89 && data[1] === 0x50 && data[2] === 0x4e && data[3] === 0x47) return "PNG";
  const where = name === "" ? "the frame" : `input "${name}"`;
  throw new TypeError(`${where}: these bytes are no JPEG or PNG; state encoded(bytes, format) or tensor(bytes, shape)`);
}

function datatypeOf(data: Elements): DataType {
  if (data instanceof Uint8Array) return "UINT8";
  if (data instanceof Uint16Array) return "UINT16";
  if (data instanceof Uint32Array) return "UINT32";
  if (data instanceof BigUint64Array) return "UINT64";
  if (data instanceof Int8Array) return "INT8";
  if (data instanceof Int16Array) return "INT16";
  if (data instanceof Int32Array) return "INT32";
  if (data instanceof BigInt64Array) return "INT64";
  if (data instanceof Float32Array) return "FP32";
  if (data instanceof Float64Array) return "FP64";
  throw new TypeError(`a value of a frame is a typed array, tensor(...) or encoded(...), not ${kindOf(data)}`);
}

function kindOf(value: unknown): string {
  return Object.prototype.toString.call(value).slice(8, -1);
}
