package duly.client;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.util.Optional;
import org.junit.jupiter.api.Test;

class ClockTest {
    private static final long MS = 1_000_000;

    private long wallNs = 1_700_000_000_000L * MS;
    private long steadyNs = 5;

    private void passes(long ns) {
        wallNs += ns;
        steadyNs += ns;
    }

    @Test
    void exchangesHoldAsIfMadeWithTheNewClockWhereTheClientsWasSet() {
        var clock = new Clock();
        clock.add(1000, 5600, 5700, 1400);
        clock.moved(100);
        assertEquals(Optional.of(new ClockEstimate(4350, 153)), clock.estimate(1500));
    }

    @Test
    void aWallClockThatIsSetIsFoundAheadAndBack() {
        var wall = new WallClock(() -> wallNs, () -> steadyNs);
        for (long aheadNs : new long[] {3_600_000 * MS, -40 * MS}) {
            long before = wall.movedNs();
            passes(7 * MS);
            wallNs += aheadNs;
            assertEquals(wallNs, wall.nowNs());
            assertEquals(aheadNs, wall.movedNs() - before);
        }
    }

    @Test
    void driftIsNoStep() {
        var wall = new WallClock(() -> wallNs, () -> steadyNs);
        for (int second = 0; second < 3600; second++) {
            passes(1000 * MS);
            wallNs += MS / 20; // 50 ppm
            wall.nowNs();
        }
        assertEquals(0, wall.movedNs());
    }
}
