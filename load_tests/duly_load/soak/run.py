"""A soak: the scenario again and again, each time with another seed, with nothing and single frames in between, while
clients misbehave and somebody watches.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import grpc

from duly.v1 import server_pb2_grpc
from duly_client.proxy import channel_options
from duly_load.generator.run import PROGRESS_S, Offer, Sending
from duly_load.protocols.connection import AllRefused, TargetError
from duly_load.scenario.scenario import Scenario
from duly_load.scenario.schedule import schedule_of
from duly_load.scenario.variations import alone
from duly_load.soak.crowd import READY_S_MAX, Crowd, Rudeness, Tallies
from duly_load.soak.misbehaviour import Aim
from duly_load.soak.phases import IDLE_S_MAX, Phase, phase_of
from duly_load.soak.record import SAMPLES_MAX, Log, SliceResult, Soak, result_of, without_frames
from duly_load.soak.watch import Sample, ServerStatistics, Watch, Watched, ask
from duly_load.targets.opened import OpenTarget, offer_to
from duly_load.targets.peer import PeerError

PERIOD_S_MIN, PERIOD_S = 0.2, 5.0
"""The time between two samples, least and usual; longer where there would be too many samples."""
SAMPLES_WANTED = 100
WARM_SHARE, WARM_S_MAX = 0.1, 3600.0
"""The share of the soak that is no part of a trend, and its bound; it is one slice at least."""
CROWD_SEED = 0x5EED
"""Makes those who misbehave draw from other numbers than those who send."""
GONE_S = 20.0
"""How long the server may take to notice that all are gone: slow readers are given up after 10 s by default."""
LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class SoakPlan:
    """What is asked of a soak."""

    scenario: Scenario
    seed: int
    """The seed of the first slice; the others count up."""
    duration_s: float
    """The duration of all slices together; the last one, which begins before the end, is not cut short."""
    rudeness: Rudeness
    pid: int | None = None
    """The process id of a server on this machine that the harness did not start; None: not known."""
    metrics: str | None = None
    """The URL of its metrics; None: it is not known."""
    sending: Sending = field(default_factory=Sending)

    @property
    def sample_period_s(self) -> float:
        wanted_s = min(PERIOD_S, max(PERIOD_S_MIN, self.duration_s / SAMPLES_WANTED))
        return max(wanted_s, self.duration_s / SAMPLES_MAX)

    @property
    def idle_s(self) -> float:
        """The duration of an idle slice."""
        return min(self.scenario.duration_s, IDLE_S_MAX)

    @property
    def warm_s(self) -> float:
        return max(self.scenario.duration_s, min(WARM_SHARE * self.duration_s, WARM_S_MAX))


@dataclass(frozen=True, slots=True)
class SoakProgress:
    """How far a soak is."""

    at_s: float
    slice: int
    """The slice's number, counted from 0."""
    phase: Phase
    """The phase of that slice."""
    last: SliceResult | None
    sample: Sample | None
    crowd: Tallies


def soak(plan: SoakPlan, target: OpenTarget, log: Log, report: Callable[[SoakProgress], None] | None = None) -> Soak:
    """Runs until the time is over, the target is gone or somebody presses Ctrl-C (KeyboardInterrupt); what there is by
    then is returned. `report` is called about twice a second.

    Raises ScenarioError where the payloads are not what the target takes.
    """
    done = Soak(plan.warm_s, faults=bool(plan.scenario.serve.fault))

    def seen(sample: Sample) -> None:
        done.add(sample)
        log.sample(sample)

    endpoint = target.address.endpoint if target.address.protocol == "duly" else None
    done.before = _holds(endpoint)
    pid = target.server.pid if target.server is not None else plan.pid
    metrics = plan.metrics or (target.server.metrics if target.server is not None else "")
    watched = Watched(pid, endpoint, metrics or None)
    aim = Aim(target.address, plan.scenario.stream, plan.seed + CROWD_SEED)
    with Watch(watched, plan.sample_period_s, seen) as watch:
        try:
            with Crowd(aim, plan.rudeness) as crowd:
                if not crowd.wait_until_begun():
                    done.notes.append(f"not all who misbehave were at work {READY_S_MAX:g} s after they were started")
                try:
                    _slices(plan, target, done, watch, crowd, log, report)
                finally:
                    done.crowd = crowd.tallies()
                    done.doubts += crowd.doubts()
        except KeyboardInterrupt:
            done.interrupted = True
        if not done.ended:
            done.after = _when_all_are_gone(endpoint, done.before)
    done.notes += watch.notes()
    if log.error:
        done.notes.append(log.error)
    return done


def _slices(
    plan: SoakPlan,
    target: OpenTarget,
    done: Soak,
    watch: Watch,
    crowd: Crowd,
    log: Log,
    report: Callable[[SoakProgress], None] | None,
) -> None:
    single = alone(plan.scenario)
    end_s = watch.at_s + plan.duration_s
    for index in count():

        def progress(index: int = index) -> None:
            if report is not None:
                last = done.slices[-1] if done.slices else None
                sample = done.samples[-1] if done.samples else None
                report(SoakProgress(watch.at_s, index, phase_of(index), last, sample, crowd.tallies()))

        try:
            result = _slice(plan, single, target, index, watch, progress)
        except (TargetError, PeerError) as error:
            done.ended = f"slice {index + 1}: {error}"
        else:
            done.slices.append(result)
            log.slice(result, crowd.tallies())
        if target.server is not None and (died := target.server.died()):
            done.ended = f"slice {index + 1}: {died}"
        if done.ended or watch.at_s >= end_s:
            return


def _slice(
    plan: SoakPlan, single: Scenario, target: OpenTarget, index: int, watch: Watch, progress: Callable[[], None]
) -> SliceResult:
    """`single`: what single slices offer. Raises TargetError where the target is gone, PeerError where a fault can't be
    done to it.
    """
    phase, seed = phase_of(index), plan.seed + index
    if phase is Phase.IDLE:
        _rest(plan.idle_s, progress)
        return without_frames(index, phase, watch.at_s, seed)
    scenario = plan.scenario if phase is Phase.BUSY else single
    # One stream may be slow, or not to the target's liking, where the whole scenario is not: no reason to end a soak.
    if phase is Phase.SINGLE and not len(schedule_of(scenario, seed).frames):
        return without_frames(index, phase, watch.at_s, seed, ("its one stream has nothing to send in that time",))
    asked = Offer(scenario, seed, target.name, target.address, plan.sending)
    try:
        run = offer_to(target, asked, lambda _: progress())
    except AllRefused as error:
        if phase is Phase.BUSY:
            raise
        return without_frames(index, phase, watch.at_s, seed, (str(error),))
    return result_of(run, index, phase, watch.at_s)


def _rest(rest_s: float, progress: Callable[[], None]) -> None:
    """`progress` is called as often as by `offer`."""
    end_s = time.monotonic() + rest_s
    while (left_s := end_s - time.monotonic()) > 0:
        progress()
        time.sleep(min(PROGRESS_S, left_s))


def _holds(endpoint: str | None) -> ServerStatistics | None:
    if endpoint is None:
        return None
    with grpc.insecure_channel(endpoint, channel_options(endpoint)) as channel:
        return ask(server_pb2_grpc.ServerServiceStub(channel))


def _when_all_are_gone(endpoint: str | None, before: ServerStatistics | None) -> ServerStatistics | None:
    """What the server still holds, as soon as that is no more than before, or after `GONE_S`."""
    if endpoint is None or before is None:
        return None
    give_up_s = time.monotonic() + GONE_S
    with grpc.insecure_channel(endpoint, channel_options(endpoint)) as channel:
        stub = server_pb2_grpc.ServerServiceStub(channel)
        while True:
            after = ask(stub)
            if after is not None and left_over(before, after) == (0, 0):
                return after
            if time.monotonic() > give_up_s:
                return after
            time.sleep(LOOK_S)


def left_over(before: ServerStatistics, after: ServerStatistics) -> tuple[int, int]:
    """Streams and frames that are there after all have gone and were not before."""
    return (
        max(0, after.streams_open - before.streams_open),
        max(0, after.frames_in_flight - before.frames_in_flight),
    )
