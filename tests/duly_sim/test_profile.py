"""Where a sample of the server's stack belongs. Whether the whole of it works, `make profile` shows."""

import pytest

from duly_sim.research.profile.samples import shares
from duly_sim.research.profile.stages import LOOP, STAGES, stage_of

RUN = "run_until_complete (uvloop/loop.pyx:1)"
READ = "_read (/here/server/duly/rpc/duly_v1/inference_service.py:120)"
CARRY_OUT = "_carry_out (/here/server/duly/runtime/driver.py:330)"


@pytest.mark.parametrize(
    ("stack", "stage"),
    [
        ([RUN], LOOP),
        ([RUN, READ], "gRPC's read and write, and what they wake"),
        ([RUN, READ, "payload (duly/rpc/duly_v1/codec.py:60)", "loads (json.py:1)"], "bytes to frames"),
        ([RUN, READ, "write (duly/rpc/duly_v1/outcome_writer.py:60)"], "outcomes to bytes"),
        ([RUN, READ, "take (duly/streams/stream.py:210)"], "a frame's place, clock and limits"),
        ([RUN, READ, "next (duly/streams/stream.py:420)"], "what is to be written: order, limits, verdicts"),
        ([RUN, CARRY_OUT, "step (duly/core/scheduler.py:120)"], "scheduler: all else"),
        (
            [RUN, CARRY_OUT, "step (duly/core/scheduler.py:120)", "_fit (duly/core/timing/profile.py:9)"],
            "scheduler: learning of run times",
        ),
        ([RUN, CARRY_OUT, "event (duly/runtime/flight_recorder.py:120)"], "flight recorder"),
        ([RUN, CARRY_OUT, "_begin (duly/runtime/worker_process.py:1)"], "to the worker and back"),
        ([RUN, CARRY_OUT], "driver: between the stream, the scheduler and the worker"),
    ],
)
def test_a_sample_belongs_to_its_innermost_stage(stack: list[str], stage: str) -> None:
    assert stage_of(stack) == stage
    assert stage == LOOP or stage in {each.name for each in STAGES}


def test_shares_are_those_of_all_samples() -> None:
    lines = [f"{RUN} 1", f"{RUN};{READ} 2", f"{RUN};{READ};somewhere (else.py:1) 1"]
    assert shares(lines) == {LOOP: 0.25, "gRPC's read and write, and what they wake": 0.75}
