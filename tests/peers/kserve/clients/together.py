"""tritonclient.grpc: requests that are under way together, by callbacks and over streams."""

import queue

import checking
import numpy as np
import tritonclient.grpc as triton
from checking import PATIENCE_S, Server, only
from refusals import refused
from tensors import a_and_b, is_added, slow_one, step, tensor, total
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

Answers = "queue.Queue[tuple[triton.InferResult | None, InferenceServerException | None]]"


class Stream:
    """A client with one stream, and what came over it."""

    def __init__(self, server: Server, **options: object) -> None:
        self.client = triton.InferenceServerClient(server.address)
        self.came: Answers = queue.Queue()
        self.client.start_stream(lambda result, error: self.came.put((result, error)), **options)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop_stream()
        self.client.close()

    def send(self, model: str, inputs: list[triton.InferInput], request_id: str = "", **options: object) -> None:
        self.client.async_stream_infer(model, inputs, request_id=request_id, **options)

    def next(self) -> triton.InferResult:
        result, error = self.came.get(timeout=PATIENCE_S)
        assert error is None, error
        assert result is not None
        return result

    def next_error(self) -> InferenceServerException:
        result, error = self.came.get(timeout=PATIENCE_S)
        assert error is not None, result and result.get_response()
        return error


def check_callbacks(server: Server) -> None:
    came: Answers = queue.Queue()
    with triton.InferenceServerClient(server.address) as client:
        for place in range(20):
            client.async_infer(
                "add_sub", a_and_b(), lambda result, error: came.put((result, error)), request_id=f"{place}"
            )
        answers = [came.get(timeout=PATIENCE_S) for _ in range(20)]
    assert all(error is None for _, error in answers)
    assert {result.get_response().id for result, _ in answers} == {str(place) for place in range(20)}
    for result, _ in answers:
        is_added(result)


def check_a_request_is_cancelled(server: Server) -> None:
    came: Answers = queue.Queue()
    with triton.InferenceServerClient(server.address) as client:
        one = client.async_infer("slow", slow_one(), lambda result, error: came.put((result, error)))
        one.cancel()
        _, error = came.get(timeout=PATIENCE_S)
        assert error.status() == "StatusCode.CANCELLED", error
        assert client.infer("slow", slow_one()).as_numpy("y")[0, 0] == 1, "others go on"


def check_a_callbacks_timeout(server: Server) -> None:
    came: Answers = queue.Queue()
    with triton.InferenceServerClient(server.address) as client:
        client.async_infer("slow", slow_one(), lambda result, error: came.put((result, error)), client_timeout=0.01)
        _, error = came.get(timeout=PATIENCE_S)
        assert error.status() == "StatusCode.DEADLINE_EXCEEDED", error


def check_what_waits_too_long_is_refused(server: Server) -> None:
    came: Answers = queue.Queue()
    with triton.InferenceServerClient(server.address) as client:
        for _ in range(3):
            client.async_infer("slow", slow_one(), lambda result, error: came.put((result, error)))
        late: Answers = queue.Queue()
        client.async_infer("slow", slow_one(), lambda result, error: late.put((result, error)), timeout=1000)
        _, error = late.get(timeout=PATIENCE_S)
        assert error is not None, "its timeout is 1 ms, and a tenth of a second of others' work was before it"
        assert error.status() == "StatusCode.UNAVAILABLE", error
        for _ in range(3):
            _, error = came.get(timeout=PATIENCE_S)
            assert error is None, error


def check_a_stream_answers_each(server: Server) -> None:
    with Stream(server) as stream:
        for place in range(20):
            stream.send("add_sub", a_and_b(), str(place))
        for place in range(20):
            result = stream.next()
            is_added(result)
            said = result.get_response()
            assert said.id == str(place), "one model's answers come in order"
            assert said.parameters["triton_final_response"].bool_param


def check_a_stream_has_many_models(server: Server) -> None:
    with Stream(server) as stream:
        stream.send("add_sub", a_and_b(3), "batch")
        stream.send("unbatched", [tensor("x", np.ones((2, 2), np.float32), "FP32")], "none")
        stream.send("accumulate", step(7), "sum", sequence_id=41, sequence_start=True, sequence_end=True)
        came = {result.get_response().id: result for result in (stream.next() for _ in range(3))}
        is_added(came["batch"], 3)
        assert np.array_equal(came["none"].as_numpy("y"), 2 * np.ones((2, 2)))
        assert total(came["sum"]) == 7


def check_a_stream_goes_on_after_an_error(server: Server) -> None:
    with Stream(server) as stream:
        stream.send("nobody", a_and_b(), "1")
        error = stream.next_error()
        assert "nobody" in error.message()
        stream.send("add_sub", a_and_b()[:1], "2")
        assert "b" in stream.next_error().message()
        stream.send("add_sub", a_and_b(), "3", parameters={"number": 1})
        is_added(stream.next())


def check_the_final_answer_of_one(server: Server) -> None:
    with Stream(server) as stream:
        stream.send("add_sub", a_and_b(), "1", enable_empty_final_response=True)
        stream.send("add_sub", a_and_b(), "2", enable_empty_final_response=True)
        for place in ("1", "2"):
            said = stream.next().get_response()
            assert said.id == place
            assert said.outputs, "a model that answers once has no empty answer more"
            assert said.parameters["triton_final_response"].bool_param


@only("triton", "a graph of ONNX answers once")
def check_decoupled(server: Server) -> None:
    x = [tensor("x", np.int32([2]), "INT32")]
    with Stream(server) as stream:
        stream.send("decoupled", x, "1", enable_empty_final_response=True)
        for place in range(2):
            result = stream.next()
            assert result.as_numpy("y")[0] == place
            assert not result.get_response().parameters["triton_final_response"].bool_param
        said = stream.next().get_response()
        assert not said.outputs
        assert said.id == "1"
        assert said.parameters["triton_final_response"].bool_param
        refused("UNIMPLEMENTED", (), stream.client.infer, "decoupled", x)


def check_a_stream_is_cancelled(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        came: Answers = queue.Queue()
        client.start_stream(lambda result, error: came.put((result, error)))
        for place in range(3):
            client.async_stream_infer("slow", slow_one(), request_id=str(place))
        client.stop_stream(cancel_requests=True)
        errors = [error for _, error in iter_of(came) if error is not None]
        assert [error.status() for error in errors] == ["StatusCode.CANCELLED"], errors
        assert client.infer("slow", slow_one()).as_numpy("y")[0, 0] == 1, "others go on"


def iter_of(came: Answers) -> list[tuple[triton.InferResult | None, InferenceServerException | None]]:
    """What is in it now."""
    return [came.get() for _ in range(came.qsize())]


def check_a_streams_deadline(server: Server) -> None:
    with Stream(server, stream_timeout=0.05) as stream:
        stream.send("slow", slow_one(), "1")
        # duly's server says of the request that it expired, where it knows before the call has ended.
        error = stream.next_error()
        if error.status() is None and server.kind == "duly":
            error = stream.next_error()
        assert error.status() == "StatusCode.DEADLINE_EXCEEDED", error


def check_a_compressed_stream(server: Server) -> None:
    for algorithm in ("gzip", "deflate"):
        with Stream(server, compression_algorithm=algorithm) as stream:
            stream.send("add_sub", a_and_b(8), algorithm)
            is_added(stream.next(), 8)


def check_several_streams_at_once(server: Server) -> None:
    streams = [Stream(server) for _ in range(4)]
    try:
        for place in range(10):
            for stream in streams:
                stream.send("add_sub", a_and_b(), str(place))
        for stream in streams:
            assert [stream.next().get_response().id for _ in range(10)] == [str(place) for place in range(10)]
    finally:
        for stream in streams:
            stream.__exit__()


@only("duly", "Triton has no outcomes")
def check_a_drop_says_its_outcome(server: Server) -> None:
    came: Answers = queue.Queue()
    with triton.InferenceServerClient(server.address) as client:
        for _ in range(3):  # a lane with nothing else to do runs what is late already
            client.async_infer("slow", slow_one(), lambda result, error: came.put((result, error)))
        refused("UNAVAILABLE", ("EXPIRED",), client.infer, "slow", slow_one(), timeout=1000)
        asked = {"duly_outcomes": True}
        said = client.infer("slow", slow_one(), request_id="d", timeout=1000, parameters=asked).get_response()
        is_dropped(said, "d")
        for _ in range(3):
            _, error = came.get(timeout=PATIENCE_S)
            assert error is None, error


@only("duly", "Triton has no outcomes")
def check_drops_in_a_stream(server: Server) -> None:
    with Stream(server) as stream:
        for place in range(3):
            stream.send("slow", slow_one(), f"before {place}")
        stream.send("slow", slow_one(), "first", timeout=1000)
        stream.send("slow", slow_one(), "second", timeout=1000, parameters={"duly_outcomes": True})
        answers = [stream.came.get(timeout=PATIENCE_S) for _ in range(5)]
        (error,) = (error for _, error in answers if error is not None)
        assert "first" in error.message(), "its id is in the text, which is all that callbacks of streams see"
        assert "EXPIRED" in error.message()
        (said,) = (each.get_response() for each, _ in answers if each and each.get_response().id == "second")
        is_dropped(said, "second")
        assert said.parameters["triton_final_response"].bool_param


def is_dropped(said: service_pb2.ModelInferResponse, request_id: str) -> None:
    assert said.id == request_id
    assert said.parameters["duly_outcome"].string_param == "EXPIRED"
    assert said.parameters["duly_reason"].string_param
    assert not said.outputs
    assert not said.raw_output_contents


if __name__ == "__main__":
    checking.run(globals())
