package duly.client;

/** One input of a frame: an array, or bytes that the server decodes. */
public sealed interface Input permits Tensor, Encoded {}
