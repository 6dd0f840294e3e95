"""Requests as scripts with tritonclient send them, to the models of `tests/peers/kserve/repository.py`."""

from typing import Any

import numpy as np
import tritonclient.grpc as triton

SIXTEEN = np.arange(16, dtype=np.int32)


def tensor(name: str, array: Any, datatype: str) -> triton.InferInput:
    """An input with its data as raw bytes."""
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def a_and_b(rows: int = 1) -> list[triton.InferInput]:
    """What `add_sub` takes: a is 0..15 in each row and b is 1."""
    a = np.tile(SIXTEEN, (rows, 1))
    return [tensor("a", a, "INT32"), tensor("b", np.ones_like(a), "INT32")]


def is_added(result: triton.InferResult, rows: int = 1) -> None:
    assert np.array_equal(result.as_numpy("sum"), np.tile(SIXTEEN + 1, (rows, 1)))
    assert np.array_equal(result.as_numpy("difference"), np.tile(SIXTEEN - 1, (rows, 1)))


def slow_one() -> list[triton.InferInput]:
    """What `slow` takes, which takes a tenth of a second and more."""
    return [tensor("x", np.ones((1, 1, 1), np.float32), "FP32")]


def step(x: int) -> list[triton.InferInput]:
    """What `accumulate` takes."""
    return [tensor("x", np.int32([[x]]), "INT32")]


def total(result: triton.InferResult) -> int:
    return int(result.as_numpy("y")[0, 0])


def words(*texts: str) -> list[triton.InferInput]:
    """What `text` takes: a row of strings."""
    return [tensor("in_string", np.array([texts], dtype=np.object_), "BYTES")]
