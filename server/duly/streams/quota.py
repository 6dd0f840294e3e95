"""Holds principals to the rates of their quotas: frames, bytes and lane time, of all their streams together.

Each rate is one number, the time at which what was taken so far would be paid off at that rate (GCRA, ITU-T I.371). A
frame is taken while that is no more than `BURST_NS` ahead, so that a second's worth may come at once, and a frame that
is larger than that is taken when nothing is owed. Principals without a quota have no meter, and pay nothing for it.
"""

from collections import OrderedDict

from duly.core.fates import OVER_QUOTA_BYTES, OVER_QUOTA_FRAMES, OVER_QUOTA_LANE, Fate
from duly.streams.rights import Quota

BURST_NS = 1_000_000_000
METERS_MAX = 4096
"""Principals whose meters are remembered after their streams have closed. The one that was used longest ago is
forgotten first."""


class Meter:
    """What one principal has taken lately."""

    __slots__ = ("_bytes_ns", "_frames_ns", "_lane_ns", "_lanes", "quota")

    def __init__(self, quota: Quota, lanes: int) -> None:
        self.quota = quota
        self._lanes = lanes
        self._frames_ns = self._bytes_ns = self._lane_ns = 0.0

    def over(self, now_ns: int, size_bytes: int) -> tuple[Fate, str] | None:
        """Takes a frame. Returns its fate and the reason in words where it is over the quota; None: it is not."""
        quota, latest_ns = self.quota, now_ns + BURST_NS
        if quota.frames_per_s_max and self._frames_ns > max(now_ns, latest_ns - 1e9 / quota.frames_per_s_max):
            return OVER_QUOTA_FRAMES, OVER_QUOTA_FRAMES.says(frames_max=quota.frames_per_s_max)
        if quota.bytes_per_s_max:
            cost_ns = size_bytes * 1e9 / quota.bytes_per_s_max
            if self._bytes_ns > max(now_ns, latest_ns - cost_ns):
                return OVER_QUOTA_BYTES, OVER_QUOTA_BYTES.says(bytes_max=quota.bytes_per_s_max)
            self._bytes_ns = max(self._bytes_ns, now_ns) + cost_ns
        if quota.lane_share_max and self._lane_ns > latest_ns:
            return OVER_QUOTA_LANE, OVER_QUOTA_LANE.says(share=quota.lane_share_max)
        if quota.frames_per_s_max:
            self._frames_ns = max(self._frames_ns, now_ns) + 1e9 / quota.frames_per_s_max
        return None

    def ran(self, now_ns: int, lane_ns: float) -> None:
        """Notes the lane time that a frame took."""
        if self.quota.lane_share_max:
            self._lane_ns = max(self._lane_ns, now_ns) + lane_ns / (self.quota.lane_share_max * self._lanes)


class Meters:
    """The meters of all principals. They outlive streams, so that opening another one gains nothing."""

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self._meters: OrderedDict[str, Meter] = OrderedDict()

    def of(self, principal: str, quota: Quota) -> Meter | None:
        """Returns the meter of a principal, held to `quota` from now on; None where its rates have no limit."""
        if not (quota.frames_per_s_max or quota.bytes_per_s_max or quota.lane_share_max):
            self._meters.pop(principal, None)
            return None
        meter = self._meters.get(principal)
        if meter is None:
            meter = self._meters[principal] = Meter(quota, self._lanes)
            if len(self._meters) > METERS_MAX:
                self._meters.popitem(last=False)
        else:
            self._meters.move_to_end(principal)
            meter.quota = quota
        return meter
