package duly.client;

import java.time.Instant;
import java.util.function.LongSupplier;

/**
 * The wall clock, watched for being set.
 *
 * <p>Capture times are of the wall clock, which a person, NTP or GPS may set at any moment. How the clocks of client
 * and server relate changes by just as much. So each reading is compared with the steady clock. Not safe for use by
 * several threads.
 */
final class WallClock {
    /** A smaller difference is none that budgets of milliseconds could notice. */
    private static final long STEP_NS_MIN = 1_000_000;

    /** Two steady clocks of one machine drift no faster apart than this. */
    private static final long DRIFT_MAX_PPM = 100;

    /** Differences are taken over no longer than this, so that drift does not add up to a step. */
    private static final long FORGET_NS = 10_000_000_000L;

    /** A reading in which the thread was stopped between two clocks for so long is taken again, so many times. */
    private static final long QUICK_NS = 100_000;

    private static final int LOOKS_MAX = 4;

    private final LongSupplier wallNs;
    private final LongSupplier steadyNs;
    private long sinceNs;
    private long leadNs;
    private long movedNs;

    WallClock() {
        this(WallClock::systemNs, System::nanoTime);
    }

    /** Clocks that tests have in hand. */
    WallClock(LongSupplier wallNs, LongSupplier steadyNs) {
        this.wallNs = wallNs;
        this.steadyNs = steadyNs;
        Look look = look();
        sinceNs = look.steadyNs;
        leadNs = look.nowNs - look.steadyNs;
    }

    /** How far the clock was set ahead since the first reading, all together, ns; negative: back. */
    long movedNs() {
        return movedNs;
    }

    /** Reads the clock, ns since 1970, and looks whether it was set. */
    long nowNs() {
        Look look = look();
        long aheadNs = look.nowNs - look.steadyNs - leadNs;
        long ageNs = look.steadyNs - sinceNs;
        boolean set = Math.abs(aheadNs) > STEP_NS_MIN + look.doubtNs + ageNs / 1_000_000 * DRIFT_MAX_PPM;
        if (set) {
            movedNs += aheadNs;
        }
        if (set || ageNs > FORGET_NS) {
            leadNs += aheadNs;
            sinceNs = look.steadyNs;
        }
        return look.nowNs;
    }

    private record Look(long nowNs, long steadyNs, long doubtNs) {}

    private Look look() {
        Look best = null;
        for (int looks = 0; looks < LOOKS_MAX && (best == null || best.doubtNs > QUICK_NS); looks++) {
            long beforeNs = steadyNs.getAsLong();
            long nowNs = wallNs.getAsLong();
            long doubtNs = steadyNs.getAsLong() - beforeNs;
            if (best == null || doubtNs < best.doubtNs) {
                best = new Look(nowNs, beforeNs, doubtNs);
            }
        }
        return best;
    }

    /** The system's wall clock, ns since 1970. */
    static long systemNs() {
        Instant now = Instant.now();
        return now.getEpochSecond() * 1_000_000_000L + now.getNano();
    }
}
