"""The experiments of gRPC's transport that the server asks for, by the release of grpcio on which they were measured.

gRPC's listeners work through its EventEngine, whose threads hand each message on to those that poll for it. Without
that the threads that poll read and write themselves: a null echo answers 1.3 to 1.6 times as many messages with two
thirds of the processor time (`make bench` has today's figures).
"""

MEASURED = {"1.85": "-event_engine_listener"}
"""By the first two numbers of a release of grpcio. What an experiment means may change with any release, so that others
run as they come."""


def experiments(grpcio: str) -> str:
    """Returns what the variable GRPC_EXPERIMENTS should be for that version of grpcio; empty: nothing."""
    return MEASURED.get(".".join(grpcio.split(".")[:2]), "")
