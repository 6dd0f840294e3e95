"""A robot whose policy gives chunks of actions: it must not run dry while the next chunk is computed.

    policy.py model FOLDER    makes a policy of eight joints, which holds still: fifty times the state that it is given
    policy.py run [TARGET]    drives by it for some seconds, and says how often there was no action

The robot is made up, and so is the policy. docs/chunks.md explains it, and docs/openpi.md serves it to others' clients.
"""

import argparse
import asyncio
import time
from pathlib import Path

import numpy as np

from duly_client import Client
from duly_client.chunks import ActionStream

JOINTS, HORIZON = 8, 50
TICK_S = 0.02
SETTINGS = f"""default_budget_ms = 200

[chunk]
output = "actions"
dt_ms = {1000 * TICK_S:g}
"""


def make_model(folder: Path) -> None:
    """Puts `policy/1` into the repository."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    constants = [
        numpy_helper.from_array(np.array([1], np.int64), "axes"),
        numpy_helper.from_array(np.array([1, HORIZON, 1], np.int64), "times"),
    ]
    nodes = [
        helper.make_node("Unsqueeze", ["observation/state", "axes"], ["now"]),
        helper.make_node("Tile", ["now", "times"], ["actions"]),
    ]
    state = helper.make_tensor_value_info("observation/state", TensorProto.FLOAT, ["N", JOINTS])
    actions = helper.make_tensor_value_info("actions", TensorProto.FLOAT, ["N", HORIZON, JOINTS])
    graph = helper.make_graph(nodes, "policy", [state], [actions], constants)
    version = folder / "policy" / "1"
    version.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, version / "model.onnx")
    (folder / "policy" / "model.toml").write_text(SETTINGS)


async def run(target: str, seconds: float) -> None:
    state = np.zeros(JOINTS, np.float32)
    ticks = dry = 0
    async with Client(target) as client, client.stream("policy") as stream:
        actions = ActionStream(stream)
        reading = asyncio.create_task(actions.run())
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s and not reading.done():
            if actions.wants_observation():
                await actions.observe(state)  # its budget is the time until there are no more actions
            action = actions.action()
            if action is not None:
                state = action.astype(np.float32)
                ticks += 1
            elif ticks:  # before the first chunk has come there is nothing to run out of
                ticks, dry = ticks + 1, dry + 1
            await asyncio.sleep(TICK_S)
        await stream.finish()
        await reading  # raises what ended the stream
    print(f"{ticks} ticks of {1000 * TICK_S:g} ms, {dry} of them without an action")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    commands.add_parser("model").add_argument("folder", type=Path)
    running = commands.add_parser("run")
    running.add_argument("target", nargs="?", default="127.0.0.1:8500")
    running.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    if given.command == "model":
        make_model(given.folder)
    else:
        asyncio.run(run(given.target, given.seconds))


if __name__ == "__main__":
    main()
