package duly.client;

import java.util.ArrayDeque;
import java.util.List;
import java.util.Optional;

/**
 * Estimates how far the server's wall clock is from the client's, from exchanges of four time stamps.
 *
 * <p>The client sends at t1 (its clock), the server receives at t2 and answers at t3 (its clock), the client receives
 * at t4. Neither way takes negative time, so the server's clock minus the client's lies within half the round trip of
 * ((t2 - t1) + (t3 - t4)) / 2, however unequal the two ways are. Each exchange gives such an interval, widened by the
 * drift since t1. The true offset lies in all of them, and the quickest exchanges bound it best.
 *
 * <p>Nothing here reads a clock. Not safe for use by several threads.
 */
public final class Clock {
    /** Number of exchanges that are remembered. */
    private static final int EXCHANGES = 16;

    /** Largest drift between two quartz oscillators of ±50 ppm each. */
    private static final long DRIFT_MAX_PPM = 100;

    private record Exchange(long sentNs, long offsetNs, long uncertaintyNs) {
        long boundNs(long nowNs) {
            return uncertaintyNs + Math.max(0, nowNs - sentNs) / (1_000_000 / DRIFT_MAX_PPM);
        }
    }

    private final ArrayDeque<Exchange> exchanges = new ArrayDeque<>(EXCHANGES);

    /**
     * Adds an exchange, t1 to t4. Where it contradicts the older ones, a clock was set, and they are forgotten. Returns
     * whether that is so.
     */
    public boolean add(long sentNs, long serverReceivedNs, long serverSentNs, long receivedNs) {
        long offsetNs = Math.floorDiv((serverReceivedNs - sentNs) + (serverSentNs - receivedNs), 2);
        long roundTripNs = (receivedNs - sentNs) - (serverSentNs - serverReceivedNs);
        // 2: both divisions round down
        var newest = new Exchange(sentNs, offsetNs, Math.max(0, roundTripNs) / 2 + 2);
        if (exchanges.size() == EXCHANGES) {
            exchanges.removeFirst();
        }
        exchanges.add(newest);
        boolean contradicts = lowNs(receivedNs) > highNs(receivedNs);
        if (contradicts) {
            exchanges.clear();
            exchanges.add(newest);
        }
        return contradicts;
    }

    /** Notes that the client's clock was set ahead by so much: the exchanges hold as if made with the new one. */
    public void moved(long aheadNs) {
        List<Exchange> before = List.copyOf(exchanges);
        exchanges.clear();
        for (Exchange each : before) {
            exchanges.add(new Exchange(each.sentNs + aheadNs, each.offsetNs - aheadNs, each.uncertaintyNs));
        }
    }

    /** What holds at {@code nowNs} of the client's clock, which may lie ahead; empty before the first exchange. */
    public Optional<ClockEstimate> estimate(long nowNs) {
        if (exchanges.isEmpty()) {
            return Optional.empty();
        }
        long lowNs = lowNs(nowNs);
        long highNs = highNs(nowNs);
        return Optional.of(
                new ClockEstimate(Math.floorDiv(lowNs + highNs, 2), Math.floorDiv(highNs - lowNs, 2) + 1));
    }

    private long lowNs(long nowNs) {
        return exchanges.stream().mapToLong(each -> each.offsetNs - each.boundNs(nowNs)).max().orElseThrow();
    }

    private long highNs(long nowNs) {
        return exchanges.stream().mapToLong(each -> each.offsetNs + each.boundNs(nowNs)).min().orElseThrow();
    }
}
