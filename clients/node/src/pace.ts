/**
 * The pace of a stream that follows the server's advice: which frames it may send.
 *
 * Frames are due every `periodNs` on a grid. One that is due is sent and moves the grid on by a period; one that comes
 * before is not. A frame that came late does not put off the next, so sensors whose own period does not divide the
 * advised one still send at the advised rate on average (the virtual scheduling algorithm of ITU-T I.371). After a
 * pause of the sensor no more than PERIODS_SAVED frames are made up for. Streams are often advised together, so each
 * begins its grid at a phase of its own.
 *
 * Times are numbers of nanoseconds of any clock that never goes back; nothing here reads one.
 */

const PERIODS_SAVED = 2;

export class Pace {
  /** The period that was advised, ns; 0 where none was. */
  periodNs = 0;
  #dueNs = 0;

  /** Makes frames due every `periodNs` (0: whenever they come), the first after `phase` (0 to 1) of one. */
  advised(nowNs: number, periodNs: number, phase: number): void {
    this.periodNs = periodNs;
    this.#dueNs = nowNs + Math.round(phase * periodNs);
  }

  /** Whether a frame at `nowNs` may be sent. */
  due(nowNs: number): boolean {
    return this.periodNs === 0 || nowNs >= this.#dueNs;
  }

  /** A frame was sent at `nowNs`, due or not. */
  sent(nowNs: number): void {
    this.#dueNs = Math.max(this.#dueNs, nowNs - PERIODS_SAVED * this.periodNs) + this.periodNs;
  }
}
