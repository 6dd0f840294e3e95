import assert from "node:assert/strict";
import { test } from "node:test";
import { Clock } from "../src/index.js";
import { WallClock } from "../src/wall-clock.js";

const MS = 1_000_000n;

test("exchanges hold as if made with the new clock where the client's was set", () => {
  const clock = new Clock();
  clock.add(1000n, 5600n, 5700n, 1400n);
  clock.moved(100n);
  assert.deepEqual(clock.estimate(1500n), { offsetNs: 4350n, uncertaintyNs: 153n });
});

/** Clocks that go as they are told: each reading of the steady one takes `stepNs`. */
class Told {
  steady = 0n;
  leadNs = 1_700_000_000_000n * MS + 300_000n;
  constructor(readonly stepNs: bigint) {}
  steadyNs(): bigint {
    return (this.steady += this.stepNs);
  }
  wallMs(): number {
    return Number((this.steady + this.leadNs) / MS);
  }
}

const apart = (one: bigint, other: bigint): bigint => (one > other ? one - other : other - one);

test("the wall clock is told to a few microseconds, though it is read in milliseconds", () => {
  const told = new Told(1000n);
  const wall = new WallClock(told);
  assert(apart(wall.nowNs(), told.steady + told.leadNs) <= 5_000n);
  assert.equal(wall.movedNs, 0n);
});

test("a wall clock that is set is found, ahead and back", () => {
  for (const aheadNs of [3_600_000n * MS, -40n * MS]) {
    const told = new Told(1000n);
    const wall = new WallClock(told);
    told.leadNs += aheadNs;
    assert(apart(wall.nowNs(), told.steady + told.leadNs) <= 5_000n);
    assert(apart(wall.movedNs, aheadNs) <= 10_000n);
  }
});

test("a machine that stops the program at each reading has a clock, too, and none that was set", () => {
  const told = new Told(3n * MS);
  const wall = new WallClock(told);
  for (let nth = 0; nth < 20; nth++) assert(apart(wall.nowNs(), told.steady + told.leadNs) <= 5n * MS);
  assert.equal(wall.movedNs, 0n);
});
