"""A rig of two cameras whose frames run together: each is a stream of its own and gives one input of the model.

    rig.py model FOLDER    makes a model with two inputs, which says how far left and right picture differ
    rig.py send [TARGET]   streams both cameras for some seconds; now and then the right one loses a picture

The cameras are made up, and so is the model; what is to be seen is which frames are joined, and what becomes of one
that has no partner. docs/fusion.md explains it.
"""

import argparse
import asyncio
import time
from pathlib import Path

import numpy as np

from duly_client import Client, Fusion, Outcome, Stream

HEIGHT, WIDTH = 120, 160
PERIOD_S = 1 / 15
LOST_EVERY = 10
"""The right camera loses one of so many pictures."""


def make_model(folder: Path) -> None:
    """Puts `stereo/1` into the repository: the mean difference of two pictures."""
    import onnx
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Sub", ["left", "right"], ["difference"]),
        helper.make_node("Abs", ["difference"], ["distance"]),
        helper.make_node("ReduceMean", ["distance"], ["apart"], axes=[1, 2], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["N", HEIGHT, WIDTH]) for x in ("left", "right")]
    outputs = [helper.make_tensor_value_info("apart", TensorProto.FLOAT, ["N"])]
    graph = helper.make_graph(nodes, "stereo", inputs, outputs)
    version = folder / "stereo" / "1"
    version.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, version / "model.onnx")


async def capture(stream: Stream, name: str, seconds: float) -> None:
    """Sends what the camera sees at each of its instants, which are those of the other one, too."""
    rng = np.random.default_rng(len(name))
    until_s = time.time() + seconds
    instant = round(time.time() / PERIOD_S) + 1
    while time.time() < until_s:
        await asyncio.sleep(max(0.0, instant * PERIOD_S - time.time()))
        picture = rng.random((HEIGHT, WIDTH), dtype=np.float32)
        if name == "left" or instant % LOST_EVERY:
            await stream.send(picture, capture_time_ns=round(instant * PERIOD_S * 1e9))
        instant += 1
    await stream.finish()


def told(name: str, outcome: Outcome) -> str:
    """One line about a frame."""
    line = f"{outcome.status.name:10} {name} {outcome.frame_id}"
    for partner in outcome.fused:
        line += f" with {partner.input} {partner.frame_id} ({partner.capture_offset_ns / 1e6:+.3f} ms)"
    if outcome.ok:
        return f"{line}: apart {outcome.outputs['apart'].item():.3f}, {outcome.latency_ns / 1e6:.1f} ms after capture"
    return f"{line}: {outcome.reason}"


async def run_camera(client: Client, name: str, seconds: float, start: asyncio.Barrier) -> None:
    fusion = Fusion(group="rig", input=name, tolerance_ms=10)
    async with client.stream("stereo", budget_ms=200, period_ms=PERIOD_S * 1e3, name=name, fusion=fusion) as stream:
        await start.wait()  # a group runs nothing before all of its inputs have a stream
        sending = asyncio.create_task(capture(stream, name, seconds))
        async for outcome in stream:
            print(told(name, outcome), flush=True)
        await sending


async def send(target: str, seconds: float) -> None:
    start = asyncio.Barrier(2)
    async with Client(target) as client:
        await asyncio.gather(*(run_camera(client, name, seconds, start) for name in ("left", "right")))


def main() -> None:
    parser = argparse.ArgumentParser(description="Two cameras whose frames run together.")
    commands = parser.add_subparsers(dest="command", required=True)
    model = commands.add_parser("model", help="make the model")
    model.add_argument("folder", type=Path)
    sends = commands.add_parser("send", help="stream both cameras")
    sends.add_argument("target", nargs="?", default="127.0.0.1:8500")
    sends.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    if arguments.command == "model":
        make_model(arguments.folder)
    else:
        asyncio.run(send(arguments.target, arguments.seconds))


if __name__ == "__main__":
    main()
