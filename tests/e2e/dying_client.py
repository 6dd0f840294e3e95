"""A client of the local transport that is killed at one of its steps: `python -m tests.e2e.dying_client PATH STEP`."""

import mmap
import os
import signal
import socket
import sys

from duly.rpc.local import layout
from duly.v1 import inference_pb2 as pb

STEPS = (
    "connected",
    "half of OPEN",
    "OPEN sent",
    "greeted",
    "half of a frame written",
    "frames sent",
    "outcomes read",
    "finished",
    "its child lives on",
    "its child opens",
    "its child lives on, all is read",
)
FRAMES = 20


def main(path: str, step: str) -> None:
    def at(here: str) -> None:
        if step == here:
            os.kill(os.getpid(), signal.SIGKILL)

    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(path)
    at("connected")
    asked = pb.OpenStream(model="double", backlog_policy=pb.BACKLOG_POLICY_ALL, default_budget_nano=5 * 10**9)
    head = layout.OPEN_HEAD.pack(layout.OPEN, layout.VERSION, 0, 0, 0)
    if step == "its child opens" and os.fork() == 0:
        sys.stdin.read(1)  # until nothing is left of its parent
        connection.send(head + asked.SerializeToString())
        while connection.recv(layout.MESSAGE_BYTES_MAX)[0] != layout.END:
            pass
        print("ended", flush=True)
        sys.stdin.read()  # until the test closes it
        os._exit(0)
    at("its child opens")
    if step == "half of OPEN":
        connection.send(head)
    at("half of OPEN")
    connection.send(head + asked.SerializeToString())
    at("OPEN sent")
    message, fds, _, _ = socket.recv_fds(connection, layout.MESSAGE_BYTES_MAX, 3)
    at("greeted")
    frames = mmap.mmap(fds[0], layout.OPENED_HEAD.unpack(message)[3])
    frames[:8] = bytes(8)
    at("half of a frame written")
    if step.startswith("its child lives on") and os.fork() == 0:
        sys.stdin.read()  # until the test closes it
        os._exit(0)
    tensor = layout.TENSOR.pack(0, 16, 0, 0, 0, *[0] * layout.EXTENTS)
    described = [layout.FRAME.pack(frame_id, 0, 0, 0, 1, 0) + tensor for frame_id in range(1, FRAMES + 1)]
    connection.send(layout.FRAMES_HEAD.pack(layout.FRAMES, FRAMES, 0) + b"".join(described))
    at("frames sent")
    at("its child lives on")
    answered = 0
    while answered < FRAMES:
        _, count, _, _ = layout.OUTCOMES_HEAD.unpack_from(connection.recv(layout.MESSAGE_BYTES_MAX))
        answered += count
    at("outcomes read")
    connection.send(bytes([layout.FINISH]))
    at("finished")
    while connection.recv(layout.MESSAGE_BYTES_MAX)[0] != layout.END:
        pass
    at("its child lives on, all is read")


if __name__ == "__main__":
    main(*sys.argv[1:])
