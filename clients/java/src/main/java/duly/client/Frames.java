package duly.client;

import duly.v1.Inference;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * What became of the frames of a stream: those without an outcome, and outcomes that wait for the application.
 *
 * <p>Each frame that was given an id has exactly one outcome, whether the server gives it or this client does. Outcomes
 * are given out once each, in the order in which they came. Used under the stream's lock.
 */
final class Frames {
    /** Limit of unanswered and unread frames together, many times what is of use to a sensor. */
    static final int HELD_MAX = 4096;

    /** Of a stream that was opened again so often, earlier frames can be labelled no more by its keys. */
    static final int KEYS_MAX = 64;

    /** A key that the stream had, with the first id of the frames that it is for. */
    private record Key(long firstId, String text) {}

    /** When the frame was captured, on the steady clock, and its size in bytes. */
    private record InFlight(long capturedNs, long size) {}

    private long nextId = 1;
    private int credit = HELD_MAX;
    private int unreadMax = 1;
    private boolean inOrder;
    private long creditBytes;
    private long bytesInFlight;
    /** By the id of the frame, in the order of the ids. */
    private final Map<Long, InFlight> inFlight = new LinkedHashMap<>();
    /** SUPERSEDED here; with the ordering ARRIVAL they wait for the outcomes of earlier frames. */
    private final ArrayDeque<Outcome> keptBack = new ArrayDeque<>();

    private final ArrayDeque<Outcome> unread = new ArrayDeque<>();
    /** The newest first. */
    private final ArrayDeque<Key> keys = new ArrayDeque<>();

    void agreed(StreamTerms terms) {
        credit = terms.framesInFlightMax() > 0 ? terms.framesInFlightMax() : HELD_MAX;
        creditBytes = terms.bytesInFlightMax();
        unreadMax = Math.min(credit, HELD_MAX / 2);
        inOrder = terms.ordering().equals("ARRIVAL");
        if (keys.size() >= KEYS_MAX) {
            keys.removeLast();
        }
        keys.addFirst(new Key(nextId, terms.streamKey()));
    }

    /** By what the label of a frame names the stream; "": none. */
    String keyOf(long frameId) {
        return keys.stream().filter(key -> frameId >= key.firstId()).findFirst().map(Key::text).orElse("");
    }

    /** Whether one more frame may be held. */
    boolean hasRoom() {
        return inFlight.size() + keptBack.size() + unread.size() < HELD_MAX;
    }

    /** Whether the server lets a frame of so many bytes be unanswered, too; else it sheds it. */
    boolean isWithinCredit(long size) {
        boolean fits = creditBytes == 0 || inFlight.isEmpty() || bytesInFlight + size <= creditBytes;
        return inFlight.size() < credit && fits;
    }

    int unread() {
        return unread.size();
    }

    /** Whether no more outcomes should be received before the application has read some. */
    boolean isFull() {
        return unread.size() >= unreadMax;
    }

    /** The id of the next frame, which is to be sent, cancelled or kept back now. */
    long nextId() {
        return nextId++;
    }

    void sent(long frameId, long capturedNs, long size) {
        inFlight.put(frameId, new InFlight(capturedNs, size));
        bytesInFlight += size;
    }

    /** Those that the server has not answered. */
    List<Long> amongInFlight(Iterable<Long> frameIds) {
        List<Long> found = new ArrayList<>();
        for (Long frameId : frameIds) {
            if (inFlight.containsKey(frameId)) {
                found.add(frameId);
            }
        }
        return found;
    }

    /** The frame is not sent, as the server advised a period: the next one that is due takes its place. */
    void keepBack(long frameId, long latencyNs, long periodNs) {
        String reason = String.format("not sent, the server advised a period of %.4g ms", periodNs / 1e6);
        keptBack.add(Outcome.here(frameId, Status.SUPERSEDED, latencyNs, reason));
        giveBack();
    }

    /** The frame is not sent, and has its outcome here. */
    void cancel(long frameId, long latencyNs, String reason) {
        unread.add(Outcome.here(frameId, Status.CANCELLED, latencyNs, reason));
    }

    /** The server will answer none of the frames in flight. */
    void cancelInFlight(long nowNs, String reason) {
        bytesInFlight = 0;
        for (Map.Entry<Long, InFlight> each : List.copyOf(inFlight.entrySet())) {
            inFlight.remove(each.getKey());
            cancel(each.getKey(), nowNs - each.getValue().capturedNs, reason);
            giveBack();
        }
    }

    /** The server's outcomes came. Throws ProtocolError where one is of no frame in flight, or makes no sense. */
    void answered(List<Inference.Outcome> outcomes, long nowNs) {
        for (Inference.Outcome wire : outcomes) {
            InFlight sent = inFlight.get(wire.getFrameId());
            if (sent == null) {
                throw new DulyException.ProtocolError("an outcome came for frame "
                        + Long.toUnsignedString(wire.getFrameId()) + ", which is not in flight");
            }
            Outcome outcome = Outcome.of(wire, nowNs - sent.capturedNs);
            inFlight.remove(wire.getFrameId());
            bytesInFlight -= sent.size;
            unread.add(outcome);
            giveBack();
        }
    }

    /** Outcomes of frames kept back, as far as the order allows. */
    private void giveBack() {
        if (keptBack.isEmpty()) {
            return;
        }
        long oldestId = inOrder && !inFlight.isEmpty() ? inFlight.keySet().iterator().next() : nextId;
        while (!keptBack.isEmpty() && keptBack.getFirst().frameId() < oldestId) {
            unread.add(keptBack.removeFirst());
        }
    }

    /** The next outcome; null: none waits. */
    Outcome take() {
        return unread.pollFirst();
    }

    /** Forgets the outcomes that wait. */
    void drop() {
        keptBack.clear();
        unread.clear();
    }
}
