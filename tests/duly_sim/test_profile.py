"""Where a sample of the server's stack belongs. Whether the whole of it works, `make profile` shows."""

import pytest

from duly_sim.research.profile.samples import SAMPLES_PER_S, shared_out, stages_s
from duly_sim.research.profile.stages import LOOP, STAGES, stage_of

RUN = "run_until_complete (uvloop/loop.pyx:1)"
READ = "_read (/here/server/duly/rpc/duly_v1/inference_service.py:120)"
CARRY_OUT = "_carry_out (/here/server/duly/runtime/driver.py:330)"


@pytest.mark.parametrize(
    ("stack", "stage"),
    [
        ([RUN], LOOP),
        ([RUN, READ], "gRPC's read and write"),
        ([RUN, READ, "payload (duly/rpc/duly_v1/codec.py:60)", "loads (json.py:1)"], "bytes to frames"),
        ([RUN, READ, "write (duly/rpc/duly_v1/outcome_writer.py:60)"], "outcomes to bytes"),
        ([RUN, READ, "take (duly/streams/stream.py:210)"], "place, clock and limits of frames"),
        ([RUN, READ, "next (duly/streams/stream.py:420)"], "order, limits and verdicts of outcomes"),
        ([RUN, CARRY_OUT, "step (duly/core/scheduler.py:120)"], "scheduler: all else"),
        (
            [RUN, CARRY_OUT, "step (duly/core/scheduler.py:120)", "_fit (duly/core/timing/profile.py:9)"],
            "scheduler: learning of run times",
        ),
        ([RUN, CARRY_OUT, "event (duly/runtime/flight_recorder.py:120)"], "flight recorder"),
        ([RUN, CARRY_OUT, "_begin (duly/runtime/worker_process.py:1)"], "to the worker and back"),
        ([RUN, CARRY_OUT], "driver"),
    ],
)
def test_a_sample_belongs_to_its_innermost_stage(stack: list[str], stage: str) -> None:
    assert stage_of(stack) == stage
    assert stage == LOOP or stage in {each.name for each in STAGES}


GRPC = "gRPC's read and write"


def test_the_loop_has_the_time_that_no_stage_has_and_none_in_which_it_waits() -> None:
    found = stages_s([f"{RUN} 600", f"{RUN};{READ} 30", f"{RUN};{READ};somewhere (else.py:1) 10"])
    assert found == {LOOP: 600 / SAMPLES_PER_S, GRPC: 40 / SAMPLES_PER_S}
    assert shared_out(found, main_s=0.25) == pytest.approx({LOOP: 0.15, GRPC: 0.1})
    assert shared_out(found, main_s=0.05) == pytest.approx({LOOP: 0.0, GRPC: 0.05}), "it was found to run, and did not"
    assert shared_out({}, main_s=0.05) == {LOOP: 0.05}
