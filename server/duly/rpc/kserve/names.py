"""The name of the service. It is apart from the messages, which take time to make."""

KSERVE = "inference.GRPCInferenceService"
