"""Each attack beside a CRITICAL stream: what its client gets stays as it is without, the server's memory stays below a
ceiling, others can open streams, and the server ends when it is asked to.
"""

import asyncio
import json
import time
from pathlib import Path

from tests import graphs
from tests.chaos.attacks import ATTACKS
from tests.chaos.kserve_attacks import KSERVE_ATTACKS
from tests.chaos.measured import RATIO_MIN, SLACK, Measured, Opens, Stretch, python
from tests.chaos.rig import Rig
from tests.chaos.verdict import Finding, Plan

ELSEWHERE = ("vanish", "slow_readers", *KSERVE_ATTACKS)
"""They have rows of their own."""
GROUP = 6
"""So many attacks share a probe and, in turn, the undisturbed stretches between them."""
RSS_CEILING_BYTES = 900 << 20
"""The ceiling of the serving process under any attack: 256 MiB for payloads, as much for results, 256 MiB until
messages that are not whole are noticed (`streams/half_messages`), and what it takes when nothing happens.
"""
WORKERS_CEILING_BYTES = 1500 << 20
SLACK_QUICK = 0.1
"""How far the ratio may lie below the undisturbed one in a quick run, whose hundred frames say no more than that, on
machines that do other things as well.
"""
SETTLE_S = 0.7
"""What comes so long after an attack is still held against it."""
STOP_S_MAX = 6.0
OPTIONS = ("--payload-bytes-max", str(256 << 20), "--drain-grace-s", "2", "--metrics", "127.0.0.1:0")


def write_models(root: Path) -> Path:
    """The models that the attacks and those who behave ask for, all on one lane."""
    one = "batch_sizes = [1]\n"
    graphs.save(root, "double", graphs.scaling(), toml="batch_sizes = [1, 4]\n")
    graphs.save(root, "slow", graphs.slow(rounds=10), toml=one)
    graphs.save(root, "large", graphs.zeros(), toml=one + '[[output]]\nname = "y"\nbytes_max = 4_000_000\n')
    graphs.save(root, "wide", graphs.scaling(width=900_000), toml=one)
    picture = '[[input]]\nname = "x"\nencodings = ["PNG"]\npreprocess = [\n{ op = "resize", width = 8, height = 8 },\n'
    graphs.save(
        root, "picture", graphs.copying(["N", 3, 8, 8]), toml=one + picture + '{ op = "layout", axes = "CHW" }]\n'
    )
    graphs.save(root, "quad", square(), toml=one + '[[input]]\nname = "x"\nbytes_max = 100_000\n')
    return root


def square() -> graphs.onnx.ModelProto:
    """y[N,1] is the greatest product of two elements of x[N,K], for which all products are held at once."""
    nodes = [
        graphs.helper.make_node("Unsqueeze", ["x", "two"], ["tall"]),
        graphs.helper.make_node("Unsqueeze", ["x", "one"], ["flat"]),
        graphs.helper.make_node("MatMul", ["tall", "flat"], ["products"]),
        graphs.helper.make_node("ReduceMax", ["products"], ["m"], axes=[1, 2], keepdims=0),
        graphs.helper.make_node("Unsqueeze", ["m", "one"], ["y"]),
    ]
    constants = {"one": graphs.np.int64([1]), "two": graphs.np.int64([2])}
    return graphs.model(nodes, [graphs.value("x", ["N", "K"])], [graphs.value("y", ["N", 1])], constants)


async def show(plan: Plan, finding: Finding) -> None:
    models = write_models(plan.folder / "models")
    names = [name for name in ATTACKS if name not in ELSEWHERE and plan.wants(name)]
    for first in range(0, len(names), GROUP):
        await show_attacks(plan, finding, models, names[first : first + GROUP])


async def show_attacks(plan: Plan, finding: Finding, models: Path, names: list[str], wanted: int = 0) -> None:
    """Shows attacks one after another against one server, with an undisturbed stretch before and after each."""
    calm_s, attack_s = (4.0, 8.0) if plan.full else (0.7, 1.0)
    rig = Rig(models, plan.folder / names[0], *OPTIONS)
    stretches: list[Stretch] = []
    async with rig:
        before = rig.usage()
        opens = Opens()
        tries = []
        peaks: dict[str, tuple[int, int]] = {}
        async with Measured(rig) as measured:
            opening = asyncio.create_task(opens.run(rig.address))
            await asyncio.sleep(1.0)
            for index, name in enumerate(names):
                refused = len(opens.refusals)
                began_s = time.monotonic()
                await asyncio.sleep(calm_s)
                stretches.append(Stretch(name, began_s, time.monotonic(), False))
                tried = (opens.tried, opens.served)
                stretch, peaks[name] = await _attack(rig, name, attack_s, plan.seed + index, wanted, finding)
                stretches.append(stretch)
                tries.append((name, opens.tried - tried[0], opens.served - tried[1], opens.refusals[refused:]))
                if not rig.alive:
                    finding.failures.append(f"{name}: the server is gone: {rig.tail()[-300:]}")
                    break
            began_s = time.monotonic()
            await asyncio.sleep(calm_s)
            stretches.append(Stretch("after", began_s, time.monotonic(), False))
            opens.stop()
            await opening
        after = rig.usage() if rig.alive else None
    _judge(finding, measured, stretches, SLACK if plan.full else SLACK_QUICK)
    for name, (rss, workers) in peaks.items():
        finding.say(f"{name}: {rss >> 20} MiB at most")
        finding.check(
            rss <= RSS_CEILING_BYTES,
            f"{name}: the server took {rss >> 20} MiB, {before.rss_bytes >> 20} before: over {RSS_CEILING_BYTES >> 20}",
        )
        finding.check(
            workers - before.workers_rss_bytes <= WORKERS_CEILING_BYTES,
            f"{name}: workers took {workers >> 20} MiB ({before.workers_rss_bytes >> 20} before)",
        )
        finding.counts["MiB at most"] = max(int(finding.counts.get("MiB at most", 0)), rss >> 20)
    for name, tried, served, refusals in tries:
        words = f"{name}: {len(refusals)} of {tried} others were not served: {refusals[-1:]}"
        finding.check(not refusals and served >= tried - 1, words)
    finding.count("streams of others", opens.tried)
    if after is not None:
        finding.check(
            after.descriptors <= before.descriptors + 8,
            f"{names}: descriptors grew from {before.descriptors} to {after.descriptors}",
        )
    if rig.stopped_s is None or rig.stopped_s > STOP_S_MAX:
        finding.failures.append(f"{names}: the server took {rig.stopped_s or 'more than 30'} s to stop")


async def _attack(
    rig: Rig, name: str, seconds: float, seed: int, wanted: int, finding: Finding
) -> tuple[Stretch, tuple[int, int]]:
    arguments = ["tests.chaos.attacks", name, f"--address={rig.address}", f"--metrics={rig.metrics}", f"--seed={seed}"]
    process = await python(*arguments, f"--seconds={seconds}", f"--wanted={wanted}")
    assert process.stdout is not None
    await process.stdout.readline()
    began_s = time.monotonic()
    told = asyncio.create_task(process.stdout.read())
    rss = workers = 0
    while not told.done():
        await asyncio.wait([told], timeout=0.1)
        if rig.alive:
            usage = rig.usage()
            rss, workers = max(rss, usage.rss_bytes), max(workers, usage.workers_rss_bytes)
        if time.monotonic() - began_s > seconds + 30:
            process.kill()
            finding.failures.append(f"{name}: the attacker hung")
            break
    await process.wait()
    await asyncio.sleep(SETTLE_S)
    finding.count("attacks")
    try:
        counts = json.loads(await told)
    except ValueError:
        finding.failures.append(f"{name}: the attacker ended without a word")
        counts = {}
    finding.say(f"{name}: {', '.join(f'{times:,} {what}' for what, times in counts.items())}")
    if "vanished" in counts:
        finding.count("vanished", counts["vanished"])
    finding.check(sum(counts.values()) > 0, f"{name}: the attacker did nothing")
    return Stretch(name, began_s, time.monotonic(), True), (rss, workers)


def _judge(finding: Finding, measured: Measured, stretches: list[Stretch], slack: float) -> None:
    """Compares what the CRITICAL client got during each attack with what it got in the calm of the same minute."""
    finding.check(not measured.broken, f"the CRITICAL stream broke: {measured.broken}")
    finding.failures.extend(measured.wrong)
    calm = [each for each in stretches if not each.disturbed]
    hits, total, _ = measured.within(*calm)
    finding.count("calm frames", total)
    for each in stretches:
        if not each.disturbed:
            continue
        near = [other for other in calm if abs(other.since_s - each.since_s) < 60]
        calm_hits, calm_total, _ = measured.within(*near)
        calm_ratio = calm_hits / max(calm_total, 1)
        hits, total, worst_s = measured.within(each)
        finding.count("frames beside attacks", total)
        missed = total - hits
        # One frame of a few hundred is more than the slack, so that short runs bear one.
        bearable = max(1.0, total * (1 - min(RATIO_MIN, calm_ratio - slack)))
        finding.check_speed(
            missed <= bearable,
            f"{each.name}: {hits / max(total, 1):.2%} of {total} CRITICAL frames in time at the client, "
            f"{calm_ratio:.2%} without; the worst took {1e3 * worst_s:.0f} ms",
        )
