"""Two lanes on one device: each has a worker of its own there, and serves while the other has none."""

from pathlib import Path

import grpc
import numpy as np

from duly.accelerators import kind_of
from duly.runtime.device_memory import on_host
from tests import graphs
from tests.accelerators.test_served import TOML, expected, pictures, seeing, tolerance
from tests.e2e.serving import serving
from tests.e2e.waiting import until
from tests.e2e.wire import ON_TIME, Wire, array, frame


async def test_two_lanes_on_one_device(tmp_path: Path, lane: str) -> None:
    graphs.save(tmp_path, "eye", seeing(), TOML)
    both = (lane, f"{lane}/2")
    async with serving(tmp_path, lanes=both) as app, grpc.aio.insecure_channel(app.address) as channel:
        served = app.catalogue.find("eye", "1")
        assert sorted(served.workers) == sorted(both)
        placement = app._supervisor.placement
        assert placement is not None
        known = on_host(lane) or kind_of(lane) == "cuda"  # by NVML, which nvidia-smi needs, too
        assert [claim.lane for claim in placement.claims] == (list(both) if known else [])
        async with Wire(channel, model="eye") as wire:
            for frame_id, gone in enumerate((*both, ""), start=1):
                worker = served.workers.get(gone)
                if worker is not None:
                    worker.give_up("for the test")
                    assert gone not in served.workers
                (picture,) = pictures(1)
                outcome = await wire.ask(frame(frame_id, picture))
                assert outcome.status == ON_TIME
                np.testing.assert_allclose(array(outcome), expected(picture), atol=tolerance())
                await until(lambda: len(served.workers) == 2)
