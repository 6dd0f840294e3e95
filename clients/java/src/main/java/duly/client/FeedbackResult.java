package duly.client;

/**
 * What became of the labels of one frame.
 *
 * @param reason why they were not joined, for people
 */
public record FeedbackResult(FeedbackStatus status, String reason) {}
