import assert from "node:assert/strict";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { OutcomeSchema, OutcomeStatus, StreamOpenedSchema, Ordering } from "../src/gen/duly/v1/inference_pb.js";
import { Frames, HELD_MAX } from "../src/frames.js";
import { termsOf } from "../src/types.js";

function frames(ordering = Ordering.UNORDERED): Frames {
  const made = new Frames(() => undefined);
  made.agreed(termsOf(create(StreamOpenedSchema, { framesInFlightMax: 4, bytesInFlightMax: 100n, ordering })));
  return made;
}

function send(to: Frames, size = 1): number {
  const frameId = to.nextId();
  to.sent(frameId, 0, size);
  return frameId;
}

const answer = (frameId: number, status = OutcomeStatus.ON_TIME) =>
  create(OutcomeSchema, { frameId: BigInt(frameId), status });

test("frames kept back wait for the outcomes of earlier ones where the order is that of arrival", async () => {
  for (const [ordering, expected] of [
    [Ordering.ARRIVAL, [1, 2]],
    [Ordering.UNORDERED, [2, 1]],
  ] as const) {
    const held = frames(ordering);
    send(held);
    held.keepBack(held.nextId(), 0, 5, 1_234_567);
    held.answered([answer(1)], 10);
    const [first, second] = [await held.take(), await held.take()];
    assert.deepEqual([first?.frameId, second?.frameId], expected);
    const keptBack = first?.frameId === 2 ? first : second;
    assert.deepEqual(
      [keptBack?.status, keptBack?.reason],
      ["SUPERSEDED", "not sent, the server advised a period of 1.235 ms"],
    );
  }
});

test("credit is of frames and of bytes, and one frame may always go", () => {
  const held = frames();
  assert(held.isWithinCredit(1000));
  send(held, 90);
  assert(held.isWithinCredit(10));
  assert(!held.isWithinCredit(11));
  held.answered([answer(1)], 0);
  for (let nth = 0; nth < 4; nth++) send(held);
  assert(!held.isWithinCredit(0));
});

test("an outcome of no frame in flight, or a second one, is the server's fault", () => {
  const held = frames();
  send(held);
  held.answered([answer(1)], 0);
  assert.throws(() => held.answered([answer(1)], 0), /frame 1, which is not in flight/);
});

test("a status that only a newer client would know is FAILED", async () => {
  const held = frames();
  send(held);
  held.answered([answer(1, 77 as OutcomeStatus)], 0);
  assert.equal((await held.take())?.status, "FAILED");
});

test("what is held is bounded", () => {
  const held = frames();
  for (let nth = 0; nth < HELD_MAX; nth++) send(held);
  assert.equal(held.room, 0);
  held.cancelInFlight(0, "connection lost");
  assert.equal(held.room, 0);
  void held.take();
  assert.equal(held.room, 1);
});

test("outcomes come before the error that ended the stream", async () => {
  const held = frames();
  send(held);
  held.cancelInFlight(0, "stream ended");
  held.end(new Error("over"));
  assert.equal((await held.take())?.status, "CANCELLED");
  await assert.rejects(held.take(), /over/);
});
