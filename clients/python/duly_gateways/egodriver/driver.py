"""The policy that the simulator's server asks: it sends the observation to duly and answers within the step, always.

Where there is no new plan in time it goes on with the newest that it has, from where the vehicle is now: a plan was
made for the pose of its observation and stays there, in the world, however late it came. Where that has ended it
brakes.
"""

import contextlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from carla_driver_interface.driver import BaseDriver, CameraFrame, DriveContext, DriveResult, SessionState
from carla_driver_interface.geometry import Pose, Trajectory

from duly_client import DulyError, Outcome, StreamTerms, TensorSpec
from duly_client.types import Value
from duly_gateways.egodriver.links import Links
from duly_gateways.egodriver.plans import BadPlan, Point, braking, points_of, route_rows
from duly_gateways.egodriver.settings import Settings

OBSERVATIONS_KEPT = 64
"""Of so many observations of a rollout without a plan yet the pose is kept; plans for older ones are dropped."""


@dataclass
class _Rollout:
    terms: StreamTerms
    lock: threading.Lock = field(default_factory=threading.Lock)
    observed: "OrderedDict[int, tuple[int, Pose]]" = field(default_factory=OrderedDict)
    """By the id of frames without a plan yet: when they were observed, and the pose then."""
    plan: list[tuple[int, Pose]] = field(default_factory=list)
    """The newest plan, in the local frame, with the times of its poses."""
    planned_us: int = -1
    """When its observation was made."""

    def sent(self, frame_id: int, now_us: int, anchor: Pose) -> None:
        with self.lock:
            self.observed[frame_id] = now_us, anchor
            while len(self.observed) > OBSERVATIONS_KEPT:
                self.observed.popitem(last=False)

    def take(self, outcome: Outcome) -> None:
        """Takes in the plan of an outcome, unless a newer one is there. Raises BadPlan."""
        with self.lock:
            now_us, anchor = self.observed.pop(outcome.frame_id, (-1, None))
            chunk = outcome.chunk
            if anchor is None or chunk is None or now_us <= self.planned_us:
                return
            points = points_of(outcome.outputs[chunk.output], chunk, now_us)
            self.plan = [(point.at_us, anchor @ _pose(point)) for point in points]
            self.planned_us = now_us

    def ahead(self, now_us: int, query_us: int) -> list[tuple[int, Pose]]:
        """What is left of the plan; nothing where it ends before `query_us`."""
        with self.lock:
            left = [(at_us, pose) for at_us, pose in self.plan if at_us > now_us]
            return left if left and left[-1][0] >= query_us else []


class DulyDriver(BaseDriver):  # type: ignore[misc, unused-ignore]  # where the package is not installed, it is Any
    name = "duly"

    def __init__(self, links: Links, settings: Settings) -> None:
        self._links = links
        self._settings = settings
        self._rollouts: dict[str, _Rollout] = {}

    def on_session_start(self, session: SessionState) -> None:
        """Raises ValueError where the model cannot drive with what the rollout has, which its client is told."""
        rollouts = self._rollouts

        def late(frame_id: int, outcome: Outcome) -> None:
            rollout = rollouts.get(session.uuid)
            if rollout is not None:
                with contextlib.suppress(BadPlan):  # nobody waits for it
                    rollout.take(outcome)

        try:
            terms = self._links.open(session.uuid, late)
        except DulyError as error:
            raise ValueError(f"duly does not take the rollout: {error}") from error
        try:
            for spec in terms.inputs:
                source = self._source(spec)
                if source.startswith("camera:") and source.removeprefix("camera:") not in session.cameras:
                    known = ", ".join(sorted(session.cameras)) or "none"
                    raise ValueError(f"input {spec.name!r} is fed by {source}; the rollout has the cameras: {known}")
                if source not in ("route", "speed") and not source.startswith("camera:"):
                    text = f"input {spec.name!r}: say in the settings what feeds it: route, speed or camera:NAME"
                    raise ValueError(text)
        except ValueError:
            self._links.close(session.uuid)
            raise
        self._rollouts[session.uuid] = _Rollout(terms)

    def on_session_close(self, session: SessionState) -> None:
        self._rollouts.pop(session.uuid, None)
        self._links.close(session.uuid)

    def drive(self, ctx: DriveContext) -> DriveResult:
        session, rollout = ctx.session, self._rollouts[ctx.session.uuid]
        now_us, query_us = ctx.time_now_us, ctx.time_query_us
        with session.lock:
            anchor = session.latest_pose()
            speed_mps = session.speed_mps()
            route = session.route_waypoints_in_rig
        told: dict[str, float] = {"duly_on_time": 0.0}
        if anchor is not None:
            try:
                payload = {spec.name: self._value(session, spec, route, speed_mps) for spec in rollout.terms.inputs}
                outcome = self._links.ask(
                    session.uuid,
                    payload,
                    self._settings.budget_ms(query_us - now_us),
                    lambda frame_id: rollout.sent(frame_id, now_us, anchor),
                )
                if outcome is not None:
                    told = {"duly_on_time": float(outcome.ok), "duly_slack_ms": outcome.slack_ns / 1e6}
                    told["duly_status"] = float(outcome.status)
                    rollout.take(outcome)
            except (BadPlan, DulyError, ValueError, TypeError, KeyError, RuntimeError):
                told["duly_failed"] = 1.0
        plan = rollout.ahead(now_us, query_us)
        if plan:
            told["plan_age_ms"] = (now_us - rollout.planned_us) / 1e3
        with session.lock:
            where = session.latest_pose()
        if where is None:
            return DriveResult(trajectory_in_rig=Trajectory.empty(), debug_scalars=told)
        trajectory = Trajectory.empty()
        if plan:
            from_local = where.inverse()
            for at_us, pose in plan:
                trajectory.append(at_us, from_local @ pose)
        else:
            told["duly_braking"] = 1.0
            for point in braking(speed_mps, self._settings.brake_mps2, now_us):
                trajectory.append(point.at_us, _pose(point))
        return DriveResult(trajectory_in_rig=trajectory, debug_scalars=told)

    def _source(self, spec: TensorSpec) -> str:
        return self._settings.inputs.get(spec.name, spec.name)

    def _value(self, session: SessionState, spec: TensorSpec, route: object, speed_mps: float) -> Value:
        source = self._source(spec)
        if source == "route":
            return route_rows(route, spec)  # type: ignore[arg-type]
        if source == "speed":
            return np.full(tuple(max(extent, 1) for extent in spec.shape), speed_mps, spec.dtype)
        frame = session.latest_frame(source.removeprefix("camera:"))
        if not isinstance(frame, CameraFrame):
            raise BadPlan(f"there is no picture of {source} yet")
        return bytes(frame.image_bytes)


def _pose(point: Point) -> Pose:
    return Pose.from_xyz_yaw(point.x_m, point.y_m, 0.0, point.yaw_rad)
