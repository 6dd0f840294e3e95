"""tritonclient.grpc: sequences, one call at a time and over streams, to a model that adds up."""

import checking
import numpy as np
import tritonclient.grpc as triton
from checking import Server, only
from refusals import refused
from tensors import a_and_b, is_added, step, tensor, total
from together import Stream


def check_one_after_another(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        for name in (1001, "ein Name", "x" * 128):
            for place, x in enumerate((11, 7, 5, 3)):
                flags = {"sequence_start": place == 0, "sequence_end": place == 3}
                result = client.infer("accumulate", step(x), sequence_id=name, **flags)
                assert total(result) == sum((11, 7, 5, 3)[: place + 1])


def check_sequences_have_their_own_state(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        names = (2001, 2002, "zwei", "drei")
        for place in range(4):
            for nth, name in enumerate(names):
                flags = {"sequence_start": place == 0, "sequence_end": place == 3}
                result = client.infer("accumulate", step(nth + 1), sequence_id=name, **flags)
                assert total(result) == (nth + 1) * (place + 1)


def check_a_start_begins_anew(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        assert total(client.infer("accumulate", step(5), sequence_id=3001, sequence_start=True)) == 5
        assert total(client.infer("accumulate", step(6), sequence_id=3001, sequence_start=True)) == 6
        assert total(client.infer("accumulate", step(1), sequence_id=3001, sequence_end=True)) == 7


def check_start_and_end_in_one(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        for _ in range(2):
            flags = {"sequence_start": True, "sequence_end": True}
            assert total(client.infer("accumulate", step(5), sequence_id=4001, **flags)) == 5
        refused("INVALID_ARGUMENT", ("4001", "accumulate"), client.infer, "accumulate", step(1), sequence_id=4001)


def check_what_a_sequence_must_say(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        refused("INVALID_ARGUMENT", ("5001",), client.infer, "accumulate", step(1), sequence_id=5001)
        refused("INVALID_ARGUMENT", ("neu",), client.infer, "accumulate", step(1), sequence_id="neu")


@only("triton", "duly takes a request without an id as a sequence of one")
def check_a_sequence_has_an_id(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        for name in (0, ""):
            flags = {"sequence_id": name, "sequence_start": True}
            refused("INVALID_ARGUMENT", ("accumulate",), client.infer, "accumulate", step(1), **flags)


@only("duly", "Triton refuses a request without an id")
def check_requests_without_an_id(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        assert [total(client.infer("accumulate", step(x))) for x in (1, 2)] == [1, 2]
    with Stream(server) as stream:
        for x in (1, 2, 3):
            stream.send("accumulate", step(x))
        assert [total(stream.next()) for _ in range(3)] == [1, 3, 6], "a call is a stream, which has its state"


@only("triton", "duly takes rows as steps, one after the other")
def check_a_batch_is_no_step(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        rows = [tensor("x", np.int32([[1], [2]]), "INT32")]
        flags = {"sequence_id": 5501, "sequence_start": True, "sequence_end": True}
        refused("INVALID_ARGUMENT", ("accumulate",), client.infer, "accumulate", rows, **flags)


@only("duly", "Triton refuses more than one row")
def check_rows_are_steps(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        rows = [tensor("x", np.int32([[1], [2]]), "INT32")]
        result = client.infer("accumulate", rows, sequence_id=5501, sequence_start=True)
        assert result.as_numpy("y").tolist() == [[1], [3]]
        assert total(client.infer("accumulate", step(1), sequence_id=5501, sequence_end=True)) == 4


def check_a_sequence_that_did_not_end(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        for first in (3, 8):
            assert total(client.infer("accumulate", step(first), sequence_id=5601, sequence_start=True)) == first
            assert total(client.infer("accumulate", step(1), sequence_id=5601)) == first + 1
        assert total(client.infer("accumulate", step(1), sequence_id=5601, sequence_end=True)) == 10


def check_a_string_is_no_number(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        assert total(client.infer("accumulate", step(5), sequence_id=6001, sequence_start=True)) == 5
        assert total(client.infer("accumulate", step(6), sequence_id="6001", sequence_start=True)) == 6
        assert total(client.infer("accumulate", step(1), sequence_id=6001, sequence_end=True)) == 6
        assert total(client.infer("accumulate", step(1), sequence_id="6001", sequence_end=True)) == 7


def check_two_streams_of_sequences(server: Server) -> None:
    with Stream(server) as first, Stream(server) as second:
        for place in range(10):
            flags = {"sequence_start": place == 0, "sequence_end": place == 9}
            first.send("accumulate", step(1), f"a{place}", sequence_id=7001, **flags)
            second.send("accumulate", step(10), f"b{place}", sequence_id="sieben", **flags)
        assert [total(first.next()) for _ in range(10)] == list(range(1, 11))
        assert [total(second.next()) for _ in range(10)] == list(range(10, 101, 10))


def check_one_stream_of_two_sequences(server: Server) -> None:
    with Stream(server) as stream:
        for place in range(5):
            flags = {"sequence_start": place == 0, "sequence_end": place == 4}
            stream.send("accumulate", step(1), f"a{place}", sequence_id=8001, **flags)
            stream.send("accumulate", step(10), f"b{place}", sequence_id=8002, **flags)
        came = {result.get_response().id: total(result) for result in (stream.next() for _ in range(10))}
        assert came == {f"a{n}": n + 1 for n in range(5)} | {f"b{n}": 10 * n + 10 for n in range(5)}


def check_a_sequence_goes_on_by_another_call(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        assert total(client.infer("accumulate", step(5), sequence_id=9001, sequence_start=True)) == 5
        assert total(client.infer("accumulate", step(6), sequence_id=9001)) == 11
        assert total(client.infer("accumulate", step(1), sequence_id=9001, sequence_end=True)) == 12


def check_sequence_parameters_on_other_models(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        is_added(client.infer("add_sub", a_and_b(), sequence_id=5, sequence_start=True))
        is_added(client.infer("add_sub", a_and_b(), sequence_id="fünf"))


if __name__ == "__main__":
    checking.run(globals())
