package duly.client;

/** Bytes that the server decodes: one picture, or samples of sound. They must not change until they are sent. */
public record Encoded(Encoding encoding, byte[] data) implements Input {}
