import assert from "node:assert/strict";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { BYTES_MAX, ITEMS_MAX, LABELS_MAX, requestsOf, type Label } from "../src/feedback.js";
import { Frames, KEYS_MAX } from "../src/frames.js";
import { StreamOpenedSchema } from "../src/gen/duly/v1/inference_pb.js";
import { DataType } from "../src/gen/duly/v1/tensor_pb.js";
import { tensor } from "../src/tensors.js";
import { termsOf } from "../src/types.js";

const of = (label: Label) => requestsOf([{ streamKey: "key", frameId: 7, label }])[0]!.items[0]!.labels;

test("a class is a number or a name, and outputs are arrays", () => {
  const [number] = of(3);
  assert.deepEqual([number!.name, number!.datatype, number!.shape], ["label", DataType.INT64, []]);
  assert.deepEqual([...number!.data], [3, 0, 0, 0, 0, 0, 0, 0]);
  const [name] = of("d\u00f6g");
  assert.deepEqual([name!.datatype, name!.shape], [DataType.STRING, []]);
  assert.deepEqual([...name!.data], [4, 0, 0, 0, 0x64, 0xc3, 0xb6, 0x67]);
  const [boxes, fraud] = of({ boxes: tensor(new Float32Array(4), [2, 2]), fraud: 0.5 });
  assert.deepEqual([boxes!.name, boxes!.datatype, boxes!.shape], ["boxes", DataType.FP32, [2n, 2n]]);
  assert.deepEqual([fraud!.name, fraud!.datatype, fraud!.shape], ["fraud", DataType.FP32, []]);
});

test("what can be no label is told before it is sent", () => {
  for (const weight of [0, -1, NaN]) {
    assert.throws(() => requestsOf([{ streamKey: "key", frameId: 1, label: 1, weight }]), /weight is/);
  }
  assert.throws(() => requestsOf([{ streamKey: "", frameId: 1, label: 1 }]), /keeps no frames/);
});

test("many labels go in several messages, in their order", () => {
  const sizes = (items: number, label: Label) =>
    requestsOf(Array.from({ length: items }, (_, frameId) => ({ streamKey: "key", frameId, label }))).map(
      (request) => request.items.length,
    );
  assert.deepEqual(sizes(2 * ITEMS_MAX + 5, 1), [ITEMS_MAX, ITEMS_MAX, 5]);
  assert.deepEqual(sizes(5, { y: new Uint8Array(BYTES_MAX / 2 - 100) }), [2, 2, 1]);
  const several = Object.fromEntries(Array.from({ length: 16 }, (_, nth) => [`y${nth}`, 1]));
  assert.deepEqual(sizes(LABELS_MAX / 16 + 1, several), [LABELS_MAX / 16, 1]);
  assert.deepEqual(sizes(0, 1), []);
});

test("a frame has the key of the connection that it was sent over", () => {
  const frames = new Frames(() => undefined);
  assert.equal(frames.keyOf(1), "");
  for (let nth = 1; nth <= 2 * KEYS_MAX; nth++) {
    frames.agreed(termsOf(create(StreamOpenedSchema, { streamKey: `key-${nth}` })));
    frames.nextId();
  }
  assert.equal(frames.keyOf(KEYS_MAX), "");
  assert.equal(frames.keyOf(KEYS_MAX + 1), `key-${KEYS_MAX + 1}`);
  assert.equal(frames.keyOf(2 * KEYS_MAX), `key-${2 * KEYS_MAX}`);
});
