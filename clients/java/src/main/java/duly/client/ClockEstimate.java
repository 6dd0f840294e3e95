package duly.client;

/** Server wall clock minus client wall clock, ns, and the bound of its error, ns. */
public record ClockEstimate(long offsetNs, long uncertaintyNs) {}
