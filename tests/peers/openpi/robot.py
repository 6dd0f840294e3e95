"""A robot with openpi's own client, in the environment of openpi-client: it prints what it got as lines of JSON.

It imports nothing of duly.
"""

import json
import sys
import time
import urllib.request
from typing import Any

import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from websockets.sync.client import connect


def told(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def observation(seed: int, **changed: Any) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    observed = {
        "observation/image": rng.integers(0, 256, (8, 8, 3), dtype=np.uint8),
        "observation/state": rng.normal(size=4),  # float64, as robots have it
        "prompt": "stack the blocks",
        **changed,
    }
    return {key: value for key, value in observed.items() if value is not None}


def tried(policy: WebsocketClientPolicy, observed: dict[str, Any]) -> None:
    began_s = time.monotonic()
    try:
        answer = policy.infer(observed)
    except Exception as error:
        told(error=type(error).__name__, text=str(error), s=time.monotonic() - began_s)
    else:
        told(
            actions=answer["actions"].tolist(),
            dtype=str(answer["actions"].dtype),
            status=answer["duly"]["status"],
            timed=answer["server_timing"]["infer_ms"] > 0,
            dt_ms=answer["duly"].get("dt_ms"),
            planned_delay_ms=answer["duly"].get("planned_delay_ms"),
        )


def main(url: str, what: str) -> None:
    policy = WebsocketClientPolicy(url)
    told(metadata=policy.get_server_metadata())
    if what == "infer":
        for seed in range(5):
            tried(policy, observation(seed))
        policy.reset()
        told(health=urllib.request.urlopen(url.replace("ws", "http", 1) + "/healthz").read().decode())
        broker = ActionChunkBroker(policy, action_horizon=3)
        told(steps=[broker.infer(observation(7))["actions"].tolist() for _ in range(3)])
    elif what == "bad":
        for changed in (
            {"observation/state": np.zeros(5)},
            {"observation/image": np.zeros((8, 8, 3))},  # floats that would have to become bytes
            {"observation/state": None},
            {"prompt": "make tea"},
            {"prompt": 3},
            {"observation/state": "text"},
            {"observation/state": [[1.0], [2.0, 3.0]]},
            {"observation/state": np.array([1, np.nan, 0, 0])},
        ):
            tried(policy, observation(0, **changed))
        policy._ws.send("a text")
        told(answer=policy._ws.recv())
        for message in (
            b"",
            b"\xc1",
            b"\x81\xa1k",
            b"\x91" * 50,
            b"\xdc\x4e\x20" + b"\xc0" * 20_000,
            b"\xc7\x01\x05x",
        ):
            policy._ws.send(message)
            told(answer=policy._ws.recv())
        tried(policy, observation(1))
    elif what == "large":
        tried(policy, observation(0, padding=np.zeros(1 << 20, np.uint8)))
    elif what == "crowd":
        others = []
        for _ in range(4):
            try:
                others.append(connect(url, compression=None))
            except Exception as error:
                told(error=type(error).__name__, text=str(error))
        tried(policy, observation(1))
    elif what == "told":
        for line in sys.stdin:  # an observation for each line
            tried(policy, observation(int(line)))
    elif what == "overload":
        for seed in range(20):
            tried(policy, observation(seed))


main(sys.argv[1], sys.argv[2])
