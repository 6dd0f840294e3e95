import assert from "node:assert/strict";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { ProtocolError } from "../src/errors.js";
import { DataType, TensorSchema } from "../src/gen/duly/v1/tensor_pb.js";
import { fromBfloat16, tensor, toBfloat16 } from "../src/index.js";
import { inputsOf, tensorOf } from "../src/tensors.js";

const output = (data: number[], shape: number[]) =>
  create(TensorSchema, {
    name: "y",
    datatype: DataType.STRING,
    shape: shape.map(BigInt),
    data: Uint8Array.from(data),
  });

test("text comes back as it was", () => {
  const texts = ["", "zwölf", "a\0b", "\ufeffx"];
  for (const payload of [texts, tensor(texts, [2, 2]), { x: texts }]) {
    const [sent] = inputsOf(payload).tensors;
    assert.equal(sent!.datatype, DataType.STRING);
    assert.deepEqual([...sent!.data.slice(0, 8)], [0, 0, 0, 0, 6, 0, 0, 0]);
    assert.deepEqual(tensorOf(create(TensorSchema, { ...sent!, shape: [4n] })).data, texts);
  }
  assert.throws(() => tensor(["a"], [2]), /\[2\] has 2 elements, the array has 1/);
  assert.throws(() => tensor(["a"], [1], "FP32"), /FP32 is not held in Array/);
});

test("text that lies is refused", () => {
  for (const [data, shape] of [
    [[1], [1]],
    [[5, 0, 0, 0, 97, 98], [1]],
    [[255, 255, 255, 255], [1]],
    [[1, 0, 0, 0, 255], [1]],
    [[1, 0, 0, 0, 97], [2]],
    [[0, 0, 0, 0, 1], [1]],
    [[], [2 ** 53]],
  ] as [number[], number[]][]) {
    assert.throws(() => tensorOf(output(data, shape)), ProtocolError, JSON.stringify([data, shape]));
  }
  assert.deepEqual(tensorOf(output([], [0, 3])).data, []);
});

test("bfloat16 is rounded to the nearest even", () => {
  const given = [1, -2.5, 1 + 1 / 256, 1 + 3 / 256, Infinity, NaN];
  assert.deepEqual([...fromBfloat16(toBfloat16(given))], [1, -2.5, 1, 1 + 4 / 256, Infinity, NaN]);
  const [sent] = inputsOf(tensor(toBfloat16([1]), [1], "BF16")).tensors;
  assert.equal(sent!.datatype, DataType.BF16);
  assert.deepEqual(tensorOf(sent!).data, Uint16Array.of(0x3f80));
});
