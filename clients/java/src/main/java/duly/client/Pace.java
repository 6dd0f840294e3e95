package duly.client;

/**
 * The pace of a stream that follows the server's advice: which frames it may send.
 *
 * <p>Frames are due every {@code periodNs} on a grid. One that is due is sent and moves the grid on by a period; one
 * that comes before is not. A frame that came late does not put off the next, so sensors whose own period does not
 * divide the advised one still send at the advised rate on average (the virtual scheduling algorithm of ITU-T I.371).
 * After a pause of the sensor no more than two frames are made up for. Streams are often advised together, so each
 * begins its grid at a phase of its own.
 *
 * <p>Times are of any clock that never goes back; nothing here reads one. Not safe for use by several threads.
 */
public final class Pace {
    private static final int PERIODS_SAVED = 2;

    private long periodNs;
    private long dueNs;

    /** The period that was advised, ns; 0 where none was. */
    public long periodNs() {
        return periodNs;
    }

    /**
     * Makes frames due every {@code periodNs} (0: whenever they come), the first after {@code phase} (0 to 1) of one.
     */
    public void advised(long nowNs, long periodNs, double phase) {
        this.periodNs = periodNs;
        dueNs = nowNs + Math.round(phase * periodNs);
    }

    /** Whether a frame at {@code nowNs} may be sent. */
    public boolean due(long nowNs) {
        return periodNs == 0 || nowNs - dueNs >= 0;
    }

    /** A frame was sent at {@code nowNs}, due or not. */
    public void sent(long nowNs) {
        long earliestNs = nowNs - PERIODS_SAVED * periodNs;
        dueNs = (dueNs - earliestNs > 0 ? dueNs : earliestNs) + periodNs;
    }
}
