"""Servers that the harness starts itself, by the names that `--target` takes."""

from duly_load.targets.duly_and_floor import Duly, Floor
from duly_load.targets.mlserver import MLServer
from duly_load.targets.peer import Peer
from duly_load.targets.triton import Triton

_FLOOR = "answers each frame at once and runs no model: what gRPC and Python cost"
_TRITON = "NVIDIA Triton 2.51, Python backend with ONNX Runtime, dynamic batching; bidirectional gRPC"

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Duly("duly", "this server, over its own protocol", "duly"),
        Duly("duly-kserve", "this server, over the protocol of Triton's streams", "kserve"),
        Floor("floor", f"{_FLOOR}; over duly's protocol", "duly"),
        Floor("floor-kserve", f"{_FLOOR}; over the protocol of Triton's streams", "kserve"),
        Triton("triton", _TRITON, timeouts=False),
        Triton("triton-timeouts", f"{_TRITON}; requests carry their budget as timeout", timeouts=True),
        MLServer(),
    )
}
"""The peers, in the order in which they are listed."""
