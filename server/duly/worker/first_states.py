"""Reads what streams begin with from the files that `[[state]]` names."""

from dataclasses import replace
from math import prod
from pathlib import Path, PurePosixPath

import numpy as np

from duly.models.spec import CARRIED_BYTES_MAX, ModelConfig
from duly.worker.errors import LoadError
from duly.worker.plan import Plan
from duly.worker.states import StateTensor
from duly.worker.version_files import VersionFiles


def with_first_states(plan: Plan, config: ModelConfig, files: VersionFiles, model_folder: Path, name: str) -> Plan:
    """Returns the plan with the first states that files hold. `name`: the model's. Raises LoadError."""
    if not any(state.initial for state in config.states):
        return plan
    states = [
        _first(tensor, state.initial, f"{name}/model.toml: state[{index}].initial", files, model_folder, name)
        for index, (tensor, state) in enumerate(zip(plan.states, config.states, strict=True))
    ]
    return replace(plan, states=tuple(states))


def _first(
    tensor: StateTensor, file: str, place: str, files: VersionFiles, model_folder: Path, name: str
) -> StateTensor:
    if not file:
        return tensor
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts:
        raise LoadError(f'{place}: "{file}" leaves the folder; name a file in it')
    shape = [extent for axis, extent in enumerate(tensor.shape) if axis != tensor.batch_axis]
    size_bytes = prod(shape) * tensor.dtype.itemsize
    if size_bytes > CARRIED_BYTES_MAX:
        raise LoadError(f"{place}: a state of {size_bytes:,} bytes; files hold at most {CARRIED_BYTES_MAX:,}")
    try:
        data = files.beside(model_folder / path, f"{name}/{file}", size_bytes)
    except LoadError as error:
        raise LoadError(f"{place}: {file} {error}") from error
    if len(data) != size_bytes:
        text = f"{file} has {len(data):,} bytes; {tensor.dtype.name}{shape} has {size_bytes:,}"
        raise LoadError(f"{place}: {text}")
    values = np.frombuffer(data, tensor.dtype.newbyteorder("<")).astype(tensor.dtype).reshape(shape)
    return replace(tensor, first=values)
