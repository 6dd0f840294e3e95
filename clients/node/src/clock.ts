/**
 * Estimates how far the server's wall clock is from the client's, from exchanges of four time stamps.
 *
 * The client sends at t1 (its clock), the server receives at t2 and answers at t3 (its clock), the client receives at
 * t4. Neither way takes negative time, so the server's clock minus the client's lies within half the round trip of
 * ((t2 - t1) + (t3 - t4)) / 2, however unequal the two ways are. Each exchange gives such an interval, widened by the
 * drift since t1. The true offset lies in all of them, and the quickest exchanges bound it best.
 *
 * Nothing here reads a clock.
 */

/** Number of exchanges that are remembered. */
const EXCHANGES = 16;
/** Largest drift between two quartz oscillators of ±50 ppm each. */
const DRIFT_MAX_PPM = 100n;

/** Server wall clock minus client wall clock, ns, and the bound of its error, ns. */
export interface ClockEstimate {
  readonly offsetNs: bigint;
  readonly uncertaintyNs: bigint;
}

interface Exchange {
  readonly sentNs: bigint;
  readonly offsetNs: bigint;
  readonly uncertaintyNs: bigint;
}

/** Remembers the newest exchanges and says what they prove. */
export class Clock {
  #exchanges: Exchange[] = [];

  /**
   * Adds an exchange, t1 to t4. Where it contradicts the older ones, a clock was set, and they are forgotten. Returns
   * whether that is so.
   */
  add(sentNs: bigint, serverReceivedNs: bigint, serverSentNs: bigint, receivedNs: bigint): boolean {
    const offsetNs = half(serverReceivedNs - sentNs + (serverSentNs - receivedNs));
    const roundTripNs = receivedNs - sentNs - (serverSentNs - serverReceivedNs);
    // 2: both divisions round down
    const newest = { sentNs, offsetNs, uncertaintyNs: half(roundTripNs > 0n ? roundTripNs : 0n) + 2n };
    this.#exchanges = [...this.#exchanges.slice(1 - EXCHANGES), newest];
    const [lowNs, highNs] = this.#bounds(receivedNs);
    const contradicts = lowNs > highNs;
    if (contradicts) this.#exchanges = [newest];
    return contradicts;
  }

  /** Notes that the client's clock was set ahead by `aheadNs`: the exchanges hold as if made with the new one. */
  moved(aheadNs: bigint): void {
    this.#exchanges = this.#exchanges.map(({ sentNs, offsetNs, uncertaintyNs }) => ({
      sentNs: sentNs + aheadNs,
      offsetNs: offsetNs - aheadNs,
      uncertaintyNs,
    }));
  }

  /** What holds at `nowNs` of the client's clock, which may lie ahead; undefined before the first exchange. */
  estimate(nowNs: bigint): ClockEstimate | undefined {
    if (this.#exchanges.length === 0) return undefined;
    const [lowNs, highNs] = this.#bounds(nowNs);
    return { offsetNs: half(lowNs + highNs), uncertaintyNs: half(highNs - lowNs) + 1n };
  }

  #bounds(nowNs: bigint): [bigint, bigint] {
    let low: bigint | undefined;
    let high: bigint | undefined;
    for (const { sentNs, offsetNs, uncertaintyNs } of this.#exchanges) {
      const age = nowNs > sentNs ? nowNs - sentNs : 0n;
      const bound = uncertaintyNs + (age * DRIFT_MAX_PPM) / 1_000_000n;
      if (low === undefined || offsetNs - bound > low) low = offsetNs - bound;
      if (high === undefined || offsetNs + bound < high) high = offsetNs + bound;
    }
    return [low ?? 0n, high ?? 0n];
  }
}

/** Rounds down, as BigInt's division does not for negative numbers. */
function half(value: bigint): bigint {
  return value >> 1n;
}
