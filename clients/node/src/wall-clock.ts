/**
 * The wall clock in nanoseconds, watched for being set.
 *
 * Node tells the wall clock in milliseconds only, and the steady clock in nanoseconds. So the wall clock here is the
 * steady one and a lead, which is found where the millisecond changes, exact to a few microseconds. When a person or a
 * time service sets the system's clock, the two disagree at the next reading, and the lead is found again.
 */

/** A smaller disagreement is none that budgets of milliseconds could notice. */
const STEP_NS_MIN = 1_000_000n;
const MILLISECOND_NS = 1_000_000n;
/** The search for the lead ends when it is known as well as this. */
const EXACT_NS = 5_000n;
/** The search ends after so long, too: a machine that interrupts it all the time has to do with less. */
const SEARCH_NS_MAX = 10_000_000n;

/** Where the two clocks are read; tests have others. */
export interface Clocks {
  steadyNs(): bigint;
  wallMs(): number;
}

const SYSTEM: Clocks = { steadyNs: () => process.hrtime.bigint(), wallMs: () => Date.now() };

export class WallClock {
  /** How far the clock was set ahead since the first reading, all together, ns; negative: back. */
  movedNs = 0n;
  readonly #clocks: Clocks;
  #leadNs: bigint;

  constructor(clocks: Clocks = SYSTEM) {
    this.#clocks = clocks;
    this.#leadNs = findLead(clocks);
  }

  /** Reads the clock, ns since 1970, and looks whether it was set. */
  nowNs(): bigint {
    const beforeNs = this.#clocks.steadyNs();
    const wallNs = BigInt(this.#clocks.wallMs()) * MILLISECOND_NS;
    const afterNs = this.#clocks.steadyNs();
    const behind = wallNs + MILLISECOND_NS + STEP_NS_MIN < beforeNs + this.#leadNs;
    const ahead = wallNs > afterNs + this.#leadNs + STEP_NS_MIN;
    if (behind || ahead) {
      const leadNs = findLead(this.#clocks);
      this.movedNs += leadNs - this.#leadNs;
      this.#leadNs = leadNs;
      return this.#clocks.steadyNs() + leadNs;
    }
    return afterNs + this.#leadNs;
  }
}

/**
 * Returns how far the wall clock is ahead of the steady one, ns. Each reading of the wall clock's millisecond between
 * two of the steady clock bounds that from both sides, and best where the millisecond changes.
 */
function findLead(clocks: Clocks): bigint {
  const beganNs = clocks.steadyNs();
  let beforeNs = beganNs;
  let [lowNs, highNs] = [-(1n << 63n), 1n << 63n];
  while (highNs - lowNs > EXACT_NS && beforeNs - beganNs < SEARCH_NS_MAX) {
    const wallNs = BigInt(clocks.wallMs()) * MILLISECOND_NS;
    const afterNs = clocks.steadyNs();
    const [lowerNs, upperNs] = [wallNs - afterNs, wallNs + MILLISECOND_NS - beforeNs];
    // It was set meanwhile where this contradicts what was found before.
    if (lowerNs > highNs || upperNs < lowNs) [lowNs, highNs] = [lowerNs, upperNs];
    if (lowerNs > lowNs) lowNs = lowerNs;
    if (upperNs < highNs) highNs = upperNs;
    beforeNs = afterNs;
  }
  return (lowNs + highNs) / 2n;
}
