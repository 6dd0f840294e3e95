"""tritonclient.grpc with system shared memory, made by tritonclient.utils.shared_memory."""

import contextlib
import secrets
from collections.abc import Iterator
from typing import Any

import checking
import numpy as np
import tritonclient.grpc as triton
import tritonclient.utils.shared_memory as shm
from checking import Server, only
from refusals import refused
from tensors import SIXTEEN, a_and_b, is_added
from together import Stream
from tritonclient.utils import serialize_byte_tensor, serialized_byte_size

BYTES = 64
"""Of one row of an input of `add_sub`."""


class Region:
    """A region of this process's, whose name and key are nobody else's."""

    def __init__(self, size_bytes: int) -> None:
        self.name = f"region_{secrets.token_hex(6)}"
        self.key = f"/duly_test_{secrets.token_hex(6)}"
        self.size_bytes = size_bytes
        self.handle = shm.create_shared_memory_region(self.name, self.key, size_bytes)

    def write(self, *arrays: Any, offset: int = 0) -> None:
        shm.set_shared_memory_region(self.handle, arrays, offset)

    def destroy(self) -> None:
        shm.destroy_shared_memory_region(self.handle)

    def read(self, shape: list[int], offset: int = 0, dtype: Any = np.int32) -> Any:
        return shm.get_contents_as_numpy(self.handle, dtype, shape, offset)


@contextlib.contextmanager
def regions(client: triton.InferenceServerClient, *sizes: int) -> Iterator[list[Region]]:
    """Regions that the server knows."""
    made = [Region(size) for size in sizes]
    try:
        for each in made:
            client.register_system_shared_memory(each.name, each.key, each.size_bytes)
        yield made
    finally:
        for each in made:
            client.unregister_system_shared_memory(each.name)
            each.destroy()


def shared_inputs(region: Region, rows: int = 1) -> list[triton.InferInput]:
    """a and b of `add_sub`, one behind the other in the region."""
    a = np.tile(SIXTEEN, (rows, 1))
    region.write(a, np.ones_like(a))
    made = [triton.InferInput(name, [rows, 16], "INT32") for name in ("a", "b")]
    for place, each in enumerate(made):
        each.set_shared_memory(region.name, BYTES * rows, place * BYTES * rows)
    return made


def shared_output(name: str, region: Region, size_bytes: int, offset: int = 0) -> triton.InferRequestedOutput:
    made = triton.InferRequestedOutput(name)
    made.set_shared_memory(region.name, size_bytes, offset)
    return made


def check_register_status_unregister(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        assert not client.get_system_shared_memory_status().regions
        with regions(client, 4096, 128) as (first, second):
            said = client.get_system_shared_memory_status().regions
            assert set(said) == {first.name, second.name}
            one = client.get_system_shared_memory_status(first.name).regions[first.name]
            assert (one.name, one.key, one.offset, one.byte_size) == (first.name, first.key, 0, 4096)
            again = (first.name, first.key, 4096)
            refused("ALREADY_EXISTS", (first.name,), client.register_system_shared_memory, *again)
            client.unregister_system_shared_memory()
            assert not client.get_system_shared_memory_status().regions
        client.unregister_system_shared_memory("nobody")
        refused("NOT_FOUND", ("nobody",), client.get_system_shared_memory_status, "nobody")


def check_regions_that_are_not_so(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        region = Region(128)
        wrong = {
            "too long": (region.key, 256, 0),
            "begins at its end": (region.key, 1, 128),
            "nothing": (region.key, 0, 0),
            "beyond 64 bits": (region.key, 1 << 63, 1 << 63),
            "wraps around": (region.key, 2, (1 << 64) - 1),
            "no such key": (f"{region.key}x", 64, 0),
            "a folder": ("/some/where", 64, 0),
            "upwards": ("/../etc/passwd", 64, 0),
            "no key": ("", 64, 0),
        }
        try:
            for key, size, offset in wrong.values():
                taking = client.register_system_shared_memory
                refused("INVALID_ARGUMENT|NOT_FOUND|INTERNAL", (), taking, "wrong", key, size, offset)
            assert not client.get_system_shared_memory_status().regions
        finally:
            region.destroy()


def check_inputs(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client, regions(client, 4096) as (region,):
        for rows in (1, 3, 8):
            is_added(client.infer("add_sub", shared_inputs(region, rows)), rows)
        mixed = [shared_inputs(region)[0], a_and_b()[1]]
        is_added(client.infer("add_sub", mixed))


def check_outputs(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client, regions(client, 4096, 4096) as (taken, given):
        outputs = [shared_output("sum", given, BYTES), shared_output("difference", given, BYTES, 256)]
        said = client.infer("add_sub", shared_inputs(taken), outputs=outputs, request_id="s").get_response()
        assert np.array_equal(given.read([1, 16]), [SIXTEEN + 1])
        assert np.array_equal(given.read([1, 16], 256), [SIXTEEN - 1])
        assert said.id == "s"
        assert [(each.name, list(each.shape)) for each in said.outputs] == [("sum", [1, 16]), ("difference", [1, 16])]
        assert list(said.raw_output_contents) == [b"", b""]
        mixed = [shared_output("sum", given, 2 * BYTES), triton.InferRequestedOutput("difference")]
        result = client.infer("add_sub", a_and_b(), outputs=mixed)
        assert np.array_equal(result.as_numpy("difference"), [SIXTEEN - 1])
        assert result.get_response().raw_output_contents[0] == b""


def check_strings(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client, regions(client, 4096, 4096) as (taken, given):
        texts = serialize_byte_tensor(np.array([["one", "zwei", ""]], np.object_))
        taken.write(texts)
        made = triton.InferInput("in_string", [1, 3], "BYTES")
        made.set_shared_memory(taken.name, serialized_byte_size(texts))
        client.infer("text", [made], outputs=[shared_output("out_string", given, 100)])
        came = given.read([1, 3], dtype=np.object_)
        assert [each.decode() for each in came[0]] == ["one", "zwei", ""]


def check_over_a_stream(server: Server) -> None:
    with Stream(server) as stream, regions(stream.client, 4096, 4096) as (taken, given):
        for place in range(3):
            outputs = [shared_output("sum", given, BYTES, place * BYTES)]
            stream.send("add_sub", shared_inputs(taken), str(place), outputs=outputs)
        for _ in range(3):
            assert stream.next().get_response().raw_output_contents[0] == b""
        assert np.array_equal(given.read([3, 16]), np.tile(SIXTEEN + 1, (3, 1)))
        lost = [triton.InferInput(name, [1, 16], "INT32") for name in ("a", "b")]
        for each in lost:
            each.set_shared_memory("nobody", BYTES)
        stream.send("add_sub", lost)
        assert "nobody" in stream.next_error().message()


def check_what_is_beyond_a_region(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client, regions(client, 256) as (region,):

        def with_a(size: int, offset: int = 0, name: str = region.name) -> list[triton.InferInput]:
            inputs = shared_inputs(region)
            inputs[0].set_shared_memory(name, size, offset)
            return inputs

        refused("NOT_FOUND", ("nobody",), client.infer, "add_sub", with_a(BYTES, 0, "nobody"))
        for size, offset in (
            (BYTES, 200),
            (300, 0),
            (BYTES, 256),
            (BYTES, (1 << 63) - 1),
            (-BYTES, 0),
            (BYTES, -BYTES),
        ):
            wrong = with_a(size, offset)
            refused("INVALID_ARGUMENT", (region.name,), client.infer, "add_sub", wrong)
        refused("INVALID_ARGUMENT", ("a", "60"), client.infer, "add_sub", with_a(60))
        for size, offset in ((BYTES, 200), (300, 0)):
            outputs = [shared_output("sum", region, size, offset)]
            refused(
                "INVALID_ARGUMENT",
                (region.name,),
                client.infer,
                "add_sub",
                a_and_b(),
                outputs=outputs,
            )
        is_added(client.infer("add_sub", shared_inputs(region)))


def check_an_output_that_is_too_small(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client, regions(client, 256) as (region,):
        outputs = [shared_output("sum", region, 60)]
        refused("INTERNAL|INVALID_ARGUMENT", ("sum",), client.infer, "add_sub", a_and_b(), outputs=outputs)


def check_a_region_that_is_gone(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client, regions(client, 256) as (region,):
        inputs = shared_inputs(region)
        client.unregister_system_shared_memory(region.name)
        refused("NOT_FOUND", (region.name,), client.infer, "add_sub", inputs)


@only("duly", "Triton's regions are everybody's")
def check_regions_are_their_connections(server: Server) -> None:
    apart = [("grpc.use_local_subchannel_pool", 1)]
    with (
        triton.InferenceServerClient(server.address) as client,
        triton.InferenceServerClient(server.address, channel_args=apart) as other,
        regions(client, 256) as (region,),
    ):
        inputs = shared_inputs(region)
        is_added(client.infer("add_sub", inputs))
        assert not other.get_system_shared_memory_status().regions
        refused("NOT_FOUND", (region.name,), other.infer, "add_sub", inputs)


if __name__ == "__main__":
    checking.run(globals())
