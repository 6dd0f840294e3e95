"""Models are placed in the memory of devices: what fits is loaded, what does not is refused with the sum."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from duly.accelerators import CUDA, TENSORRT
from duly.runtime import placement as placing
from duly.runtime.device_memory import DeviceMemory
from duly.runtime.placement import Claim, NoPlace, Placement

GB = 1_000_000_000
LANES = {"cuda:0": "a", "tensorrt-rtx:0": "a", "cuda:1": "b"}


class Gpus:
    """Two GPUs of 16 GB. What processes have is what the test says, and who else has what."""

    def __init__(self, tells: bool = True) -> None:
        """`tells`: whether the driver says which process has how much."""
        self.tells = tells
        self.others = {"a": 2 * GB, "b": 0}
        self.of_processes: dict[str, dict[int, int]] = {"a": {}, "b": {}}
        self.known = True

    async def memory(self, lane: str) -> DeviceMemory | None:
        device = LANES.get(lane) if self.known else None
        if device is None:
            return None
        mine: Mapping[int, int] = self.of_processes[device]
        used = self.others[device] + sum(mine.values())
        return DeviceMemory(device, lane, 16 * GB, used, mine if self.tells else {})


class Loads:
    """Loads workers as the server does."""

    def __init__(self, gpus: Gpus, lane_memory_bytes_max: int = 0) -> None:
        self.gpus = gpus
        self.placement = Placement(gpus.memory, lane_memory_bytes_max)
        self._pid = 100

    async def begin(self, key: str, weights: float = 1, lane: str = "cuda:0", replaces: bool = False) -> Claim:
        claim = await self.placement.claim(key, lane, int(weights * GB), replaces=replaces)
        assert claim is not None
        self._pid += 1
        claim.pid = self._pid
        return claim

    async def ready(self, claim: Claim, takes: float) -> Claim:
        self.gpus.of_processes[claim.device][claim.pid] = int(takes * GB)
        await self.placement.warm(claim)
        return claim

    async def load(self, key: str, takes: float, weights: float = 1, lane: str = "cuda:0") -> Claim:
        return await self.ready(await self.begin(key, weights, lane), takes)

    def dies(self, claim: Claim, leaves: bool = False) -> None:
        """Its process is gone. `leaves`: the driver still counts its memory."""
        if not leaves:
            del self.gpus.of_processes[claim.device][claim.pid]
        self.placement.gone(claim)

    async def refusal(self, key: str, weights: float = 1, lane: str = "cuda:0") -> str:
        with pytest.raises(NoPlace) as refused:
            await self.begin(key, weights, lane)
        return str(refused.value)


async def test_a_refusal_has_the_sum() -> None:
    loads = Loads(Gpus())
    await loads.load("b/1", 4.1)
    await loads.load("a/1", 9.3)
    assert await loads.refusal("c/1", 3.0) == (
        "cuda:0 has 16.0 GB, 2.0 GB in use by others: 2 other versions 13.4 GB + c/1 (this, at least) 3.0 GB = 16.4 "
        "GB; unload a version, take smaller batch_sizes, or use fewer lanes of that device"
    )
    assert [claim.key for claim in loads.placement.claims] == ["b/1", "a/1"]
    await loads.load("c/1", 0.6, 0.5)


async def test_what_was_measured_counts_the_next_time() -> None:
    loads = Loads(Gpus())
    loads.dies(await loads.load("a/1", 9, weights=1))
    await loads.load("b/1", 6, weights=1)
    assert "1 other version 6.0 GB + a/1 (this, as measured) 9.0 GB = 15.0 GB" in await loads.refusal("a/1", 1)


async def test_a_new_version_is_expected_to_take_what_the_old_one_did_beside_its_weights() -> None:
    loads = Loads(Gpus())
    first = await loads.load("a/1", 6, weights=1)
    assert "1 other version 6.0 GB + a/2 (this, at least) 9.0 GB" in await loads.refusal("a/2", 4)
    loads.dies(first)
    assert (await loads.begin("a/2", 4)).size_bytes == 9 * GB
    assert (await loads.begin("other/1", 4, "cuda:1")).size_bytes == 4 * GB


async def test_what_is_compiled_may_take_a_quarter_of_its_files() -> None:
    loads = Loads(Gpus())
    claim = loads.placement.claim
    with pytest.raises(NoPlace, match=r"a/1 takes 20\.0 GB \(at least\)"):
        await claim("a/1", "cuda:0", 20 * GB)
    first = await claim("a/1", "cuda:0", 20 * GB, [TENSORRT, CUDA])
    assert first is not None
    assert first.size_bytes == 5 * GB
    await loads.ready(first, 5.5)
    loads.dies(first)
    for key, weights, expected in (("a/1", 20, 5.5), ("a/2", 24, 6.5)):
        later = await claim(key, "cuda:0", weights * GB, [TENSORRT, CUDA])
        assert later is not None
        assert later.size_bytes == expected * GB
        loads.placement.gone(later)
    own = await claim("b/1", "tensorrt-rtx:0", 4 * GB)
    assert own is not None
    assert own.size_bytes == GB


async def test_openvino_keeps_weights_as_they_are_on_the_processor_alone() -> None:
    async def memory(lane: str) -> DeviceMemory:
        return DeviceMemory(lane, lane, 16 * GB, 0)

    placement = Placement(memory)
    for lane, expected in (("openvino:CPU", 4 * GB), ("openvino:GPU", GB)):
        claim = await placement.claim("a/1", lane, 4 * GB)
        assert claim is not None
        assert claim.size_bytes == expected


async def test_each_device_has_its_own_memory_whatever_its_lanes_are_called() -> None:
    loads = Loads(Gpus())
    await loads.load("a/1", 9)
    await loads.load("a/1", 9, lane="cuda:1")
    assert "tensorrt-rtx:0 has 16.0 GB" in await loads.refusal("b/1", 24, "tensorrt-rtx:0")
    await loads.load("b/1", 5, 5, lane="cuda:1")


@pytest.mark.parametrize("tells", [True, False])
async def test_a_worker_is_replaced_though_its_predecessor_is_not_quite_gone(tells: bool) -> None:
    loads = Loads(Gpus(tells))
    first = await loads.load("a/1", 9)
    loads.dies(first, leaves=True)
    second = await loads.begin("a/1", replaces=True)
    del loads.gpus.of_processes["a"][first.pid]
    await loads.ready(second, 9)
    assert second.size_bytes == 9 * GB


@pytest.mark.parametrize("tells", [True, False])
async def test_what_is_being_loaded_counts_once(tells: bool) -> None:
    """Its memory is in use already, and is none that others have."""
    loads = Loads(Gpus(tells))
    await loads.load("x/1", 1)
    first = await loads.begin("a/1", 5)
    loads.gpus.of_processes["a"][first.pid] = 4 * GB
    second = await loads.begin("b/1", 5)
    assert "3 other versions 11.0 GB + c/1 (this, at least) 4.0 GB" in await loads.refusal("c/1", 4)
    await loads.ready(first, 6)
    await loads.ready(second, 5)
    assert first.size_bytes == (6 * GB if tells else 5 * GB), "who has how much cannot be told while both are loaded"


async def test_a_worker_alone_is_measured_without_processes() -> None:
    loads = Loads(Gpus(tells=False))
    assert (await loads.load("a/1", 7)).size_bytes == 7 * GB
    assert (await loads.load("b/1", 5)).size_bytes == 5 * GB


async def test_a_worker_that_has_grown_counts_as_it_is() -> None:
    loads = Loads(Gpus())
    worker = await loads.load("a/1", 3)
    loads.gpus.of_processes["a"][worker.pid] = 11 * GB
    assert "1 other version 11.0 GB + b/1 (this, at least) 4.0 GB" in await loads.refusal("b/1", 4)


async def test_others_who_take_more_leave_less() -> None:
    loads = Loads(Gpus())
    loads.gpus.others["a"] = 15 * GB
    assert await loads.refusal("a/1", 2) == (
        "cuda:0 has 16.0 GB, 15.0 GB in use by others: a/1 takes 2.0 GB (at least); "
        "unload a version, take smaller batch_sizes, or use fewer lanes of that device"
    )


async def test_all_of_a_lane_may_have_less_than_there_is() -> None:
    loads = Loads(Gpus(), 5 * GB)
    await loads.load("a/1", 3)
    assert (await loads.refusal("b/1", 2.5)).startswith(
        "models on cuda:0 may have 5.0 GB (lane_memory_bytes_max): 1 other version 3.0 GB + b/1 (this, at least) 2.5 "
        "GB = 5.5 GB"
    )
    assert (await loads.begin("b/1", 1)).room_bytes == 2 * GB


async def test_nothing_is_refused_where_nothing_is_known() -> None:
    gpus = Gpus()
    loads = Loads(gpus)
    assert await loads.placement.claim("a/1", "webgpu:0", 10**15) is None
    gpus.known = False
    assert await loads.placement.claim("a/1", "cuda:0", 10**15) is None
    assert await loads.placement.says("a/1", "cuda:0") == ""


async def test_names_of_other_versions_are_in_the_log_alone() -> None:
    """Whoever loads may not be allowed to know of them."""
    loads = Loads(Gpus())
    await loads.load("secret/1", 0.5)
    await loads.load("hidden/2", 5)
    await loads.load("a/1", 4)
    with capture_logs() as lines:
        refusal = await loads.refusal("a/1", 20, "tensorrt-rtx:0")
        says = await loads.placement.says("a/1", "cuda:0")
    assert ": a/1 (loaded) 4.0 GB + 2 other versions 5.5 GB + a/1 (this, at least) 5.0 GB = 14.5 GB; " in refusal
    assert says.endswith("; loaded there: a/1 (loaded) 4.0 GB + 2 other versions 5.5 GB")
    assert [(line["model"], line["there"]) for line in lines] == [
        ("a/1", "hidden/2 5.0 GB + a/1 4.0 GB + secret/1 0.5 GB")
    ] * 2


async def test_who_has_what() -> None:
    loads = Loads(Gpus())
    assert await loads.placement.says("a/1", "cuda:0") == (
        "cuda:0 has 16.0 GB, of which 14.0 GB are free; nothing else of this server is loaded there"
    )
    await loads.load("b/1", 0.05)
    await loads.load("a/1", 4)
    await loads.begin("c/1", 1)
    assert await loads.placement.says("c/1", "cuda:0") == (
        "cuda:0 has 16.0 GB, of which 9.9 GB are free; loaded there: 2 other versions 4.0 GB"
    )


async def test_so_many_measurements_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "KNOWN_MAX", 2)
    loads = Loads(Gpus())
    for key in ("a/1", "b/1", "c/1"):
        loads.dies(await loads.load(key, 5))
    assert (await loads.begin("a/1", 1)).size_bytes == GB
    assert (await loads.begin("c/1", 1)).size_bytes == 5 * GB


@given(
    acts=st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 9), st.integers(1, 9)), max_size=20),
    tells=st.booleans(),
)
async def test_what_was_placed_never_adds_up_to_more_than_there_is(
    acts: list[tuple[str, int, int]], tells: bool
) -> None:
    """As long as workers take what they were expected to."""
    loads = Loads(Gpus(tells))
    loaded: dict[str, Claim] = {}
    for name, weights, more in acts:
        if name in loaded:
            loads.dies(loaded.pop(name))
            continue
        try:
            claim = await loads.begin(f"{name}/1", weights)
        except NoPlace:
            continue
        loaded[name] = await loads.ready(claim, min(weights + more / 10, claim.room_bytes / GB))
        assert sum(loads.gpus.of_processes["a"].values()) + loads.gpus.others["a"] <= 16 * GB
        assert sum(each.size_bytes for each in loads.placement.claims) <= 14 * GB
