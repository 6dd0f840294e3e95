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

/**
 * Elements: typed arrays, and an array of strings for STRING. BOOL and UINT8 are Uint8Array; FP16 and BF16 are Uint16Array
 * with their bits, IEEE 754 binary16 and the upper half of binary32.
 */
export type Elements = TypedElements | readonly string[];

/** Elements of one size each. */
export type TypedElements =
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
  Exclude<DataType, "STRING">,
  { new (buffer: ArrayBufferLike, at: number, length: number): TypedElements; BYTES_PER_ELEMENT: number }
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
  BF16: Uint16Array,
};

const LENGTH_BYTES = 4;
const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

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
 * it open: BOOL for Uint8Array (else UINT8), FP16 or BF16 for Uint16Array (else UINT16). An array of strings is STRING.
 */
export function tensor(data: Elements, shape: readonly number[] = [], datatype: DataType = datatypeOf(data)): Tensor {
  const fits = datatype === "STRING" ? isText(data) : data instanceof ELEMENTS[datatype];
  if (!fits) throw new TypeError(`tensor: ${datatype} is not held in ${kindOf(data)}`);
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
  const values: [string, Value][] = isValue(payload) ? [["", payload]] : Object.entries(payload as object);
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
  const shape = message.shape.map(Number);
  const length = shape.reduce((product, extent) => product * extent, 1);
  let { data } = message;
  if (datatype === "STRING") return new Tensor(textsOf(message.name, data, length), shape, datatype);
  const kind = ELEMENTS[datatype];
  if (length * kind.BYTES_PER_ELEMENT !== data.byteLength) {
    throw new ProtocolError(
      `output "${message.name}": ${data.byteLength} bytes do not fill [${shape.join(", ")}] of ${datatype}`,
    );
  }
  if (data.byteOffset % kind.BYTES_PER_ELEMENT !== 0) data = new Uint8Array(data);
  return new Tensor(new kind(data.buffer, data.byteOffset, length), shape, datatype);
}

/** The bits of BF16 for numbers, each rounded to the nearest, half to even. */
export function toBfloat16(numbers: ArrayLike<number>): Uint16Array {
  const wide = Float32Array.from(numbers);
  const bits = new Uint32Array(wide.buffer);
  // To round a NaN could make an infinity of it.
  return Uint16Array.from(bits, (each, nth) =>
    Number.isNaN(wide[nth]) ? (each >>> 16) | 0x40 : (each + 0x7fff + ((each >>> 16) & 1)) >>> 16,
  );
}

/** The numbers that the bits of BF16 stand for. */
export function fromBfloat16(bits: Uint16Array): Float32Array {
  return new Float32Array(Uint32Array.from(bits, (each) => each << 16).buffer);
}

function isText(data: unknown): data is readonly string[] {
  return Array.isArray(data) && data.every((each) => typeof each === "string");
}

function textsOf(name: string, data: Uint8Array, count: number): string[] {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const texts: string[] = [];
  let at = 0;
  while (texts.length < count && at + LENGTH_BYTES <= data.byteLength) {
    const begin = at + LENGTH_BYTES;
    at = begin + view.getUint32(at, true);
    if (at > data.byteLength) break;
    try {
      texts.push(UTF8.decode(data.subarray(begin, at)));
    } catch {
      throw new ProtocolError(`output "${name}": element ${texts.length} is no UTF-8`);
    }
  }
  if (texts.length !== count || at !== data.byteLength) {
    throw new ProtocolError(`output "${name}": ${data.byteLength} bytes are not ${count} elements of STRING`);
  }
  return texts;
}

function textBytes(texts: readonly string[]): Uint8Array {
  const pieces = texts.flatMap((text) => {
    const bytes = Buffer.from(text);
    const length = Buffer.alloc(LENGTH_BYTES);
    length.writeUInt32LE(bytes.length);
    return [length, bytes];
  });
  return Buffer.concat(pieces);
}

function isValue(payload: Payload): payload is Value {
  return isText(payload) || ArrayBuffer.isView(payload) || payload instanceof Tensor || payload instanceof Encoded;
}

/** The elements as they go on the wire. */
export function bytesOf(data: Elements): Uint8Array {
  if (isText(data)) return textBytes(data);
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

function pictureFormat(name: string, data: Uint8Array): Encoding {
  if (data[0] === 0xff && data[1] === 0xd8 && data[2] === 0xff) return "JPEG";
  if (data[0] === 0x89 && data[1] === 0x50 && data[2] === 0x4e && data[3] === 0x47) return "PNG";
  const where = name === "" ? "the frame" : `input "${name}"`;
  throw new TypeError(`${where}: these bytes are no JPEG or PNG; state encoded(bytes, format) or tensor(bytes, shape)`);
}

function datatypeOf(data: Elements): DataType {
  if (isText(data)) return "STRING";
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
  throw new TypeError(
    `a value of a frame is a typed array, an array of strings, tensor(...) or encoded(...), not ${kindOf(data)}`,
  );
}

function kindOf(value: unknown): string {
  return Object.prototype.toString.call(value).slice(8, -1);
}
