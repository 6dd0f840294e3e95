"""Keeps a robot in actions: a buffer of those that are due, and when and with which deadline to ask for more.

A policy gives actions for a stretch of time, a chunk. While it computes the next one, the robot carries out what is in
the buffer, and the time until that runs dry is the chunk slack: **it is the budget of the next frame**. A result that
comes later is worth nothing, and the server knows it.

When a chunk comes, its actions take the place of the old ones from the frame's capture plus the planned delay on: the
actions before that were carried out, or promised to the policy, while it computed. (That is how real-time chunking has
it: Black et al. 2025, "Real-Time Execution of Action Chunking Flow Policies".) Where the result comes later than
planned, they do so from now on: what is past is past. Where the old actions end before that, the new ones follow at
once. With `blend_steps` the first new actions are mixed with the old ones of the same time, more and more of the new.

`ActionBuffer` does no I/O and reads no clock: all its times are nanoseconds of one clock that never jumps.
"""

import bisect
import time

import numpy as np

from duly_client.convert import Array
from duly_client.stream import Stream
from duly_client.types import Chunk, Outcome, Payload

ACTIONS_MAX = 4096
"""So many actions are held; of a chunk with more the last ones are left out."""
BLEND_STEPS_MAX = 256
"""Over so many actions a chunk may be blended with the one before it."""
EARLY_MAX = 0.5
"""No observation is wanted for a long planned delay while more than this share of a chunk is left."""
FRAMES_KEPT = 64
"""Of so many frames in flight it is known when they were captured; older ones give no actions any more. So many
outcomes are held of frames that are not known yet."""


class ActionBuffer:
    """The actions of one robot that are still to come, each with the time at which it is due."""

    def __init__(self, *, blend_steps: int = 0) -> None:
        """`blend_steps`: how many of the first actions of a chunk are mixed with those of the one before."""
        if not 0 <= blend_steps <= BLEND_STEPS_MAX:
            raise ValueError(f"blend_steps: should be 0 to {BLEND_STEPS_MAX}, got {blend_steps}")
        self._blend_steps = blend_steps
        self._due_ns: list[int] = []  # strictly rising
        self._actions: list[Array] = []
        self._end_ns = 0  # when the last action is over
        self._captured_ns: int | None = None  # of the frame whose chunk came last

    def __len__(self) -> int:
        return len(self._actions)

    def add(self, chunk: Chunk, actions: Array, captured_ns: int, delay_ns: int, now_ns: int) -> int:
        """Takes the actions of a chunk, of a frame captured at `captured_ns` that was planned to take `delay_ns`.
        Returns how many of them are in the buffer: 0 where none is of use, or a newer frame's chunk came before.

        `actions`: an array whose first dimension are the actions, which must not be changed any more. Raises ValueError
        where it has no dimension, or the chunk no time between its actions.
        """
        if actions.ndim < 1 or chunk.dt_ns < 1:
            raise ValueError(f"actions of the shape {list(actions.shape)}, {chunk.dt_ns} ns apart, make no chunk")
        if self._captured_ns is not None and captured_ns < self._captured_ns:
            return 0
        begin_ns, dt_ns = captured_ns + chunk.t0_ns, chunk.dt_ns
        horizon = min(len(actions), ACTIONS_MAX)
        self._forget(now_ns)
        covered_ns = max(self._end_ns, now_ns)  # until then there are actions, or it is past
        switch_ns = min(max(captured_ns + delay_ns, now_ns), covered_ns)
        first = max(0, -((begin_ns - switch_ns) // dt_ns))  # the first action that is due then or later
        if first and covered_ns < begin_ns + first * dt_ns:
            first -= 1  # nothing else is there until then: the one before it fills the gap
        if first >= horizon:
            return 0
        due_ns = [begin_ns + nth * dt_ns for nth in range(first, horizon)]
        due_ns[0] = max(due_ns[0], switch_ns)
        taken = list(actions[first:horizon])
        for nth in range(min(self._blend_steps, len(taken))):
            old = self._at(due_ns[nth])
            if old is not None and old.shape == taken[nth].shape and taken[nth].dtype.kind == "f":
                share = (nth + 1) / (self._blend_steps + 1)
                taken[nth] = np.asarray(old + share * (taken[nth] - old), taken[nth].dtype)
        keep = bisect.bisect_left(self._due_ns, due_ns[0])
        self._due_ns[keep:] = due_ns
        self._actions[keep:] = taken
        self._end_ns = begin_ns + horizon * dt_ns
        over = len(self._due_ns) - ACTIONS_MAX
        if over > 0:
            del self._due_ns[-over:], self._actions[-over:]
            self._end_ns = self._due_ns[-1] + dt_ns
        self._captured_ns = captured_ns
        return min(len(taken), len(self._due_ns))

    def action(self, now_ns: int) -> Array | None:
        """Returns the action that is due: that whose time came last. None: the buffer has run dry, or no time has come
        yet. It must be called with times that do not fall.
        """
        self._forget(now_ns)
        return self._at(now_ns)

    def slack_ns(self, now_ns: int) -> int:
        """Returns how long the actions last; 0: it has run dry."""
        return max(0, self._end_ns - now_ns) if self._actions else 0

    def ahead(self, now_ns: int, count: int) -> list[Array]:
        """Returns up to so many of the next actions, the one that is carried out first: what a policy that continues
        them takes as its prefix.
        """
        at = max(0, bisect.bisect_right(self._due_ns, now_ns) - 1)
        return self._actions[at : at + count]

    def clear(self) -> None:
        """Forgets all actions, such as for another episode. Chunks of frames that are in flight count as new ones."""
        self._due_ns.clear()
        self._actions.clear()
        self._end_ns = 0
        self._captured_ns = None

    def _at(self, at_ns: int) -> Array | None:
        if at_ns >= self._end_ns:
            return None
        place = bisect.bisect_right(self._due_ns, at_ns) - 1
        return self._actions[place] if place >= 0 else None

    def _forget(self, now_ns: int) -> None:
        """Drops the actions that are over; the one that is carried out stays."""
        over = len(self._due_ns) if now_ns >= self._end_ns else bisect.bisect_right(self._due_ns, now_ns) - 1
        if over > 0:
            del self._due_ns[:over], self._actions[:over]


class ActionSupply:
    """When a robot asks for more actions, with which deadline, and what becomes of those that come. Like the buffer it
    does no I/O and reads no clock.
    """

    def __init__(self, chunk_ns: int, dt_ns: int, delay_ns: int, *, refill: float, reserve_ns: int, blend_steps: int):
        """`chunk_ns`: how long a chunk lasts; 0: not known yet. `delay_ns`: the planned delay. Raises ValueError."""
        if not 0 <= refill <= 1:
            raise ValueError(f"refill: should be 0 to 1, got {refill}")
        self.buffer = ActionBuffer(blend_steps=blend_steps)
        self.delay_ns = delay_ns
        """How long the next observation is planned to take, as the server said last."""
        self.dt_ns = dt_ns
        """The time between two actions of the newest chunk."""
        self._chunk_ns = chunk_ns
        self._refill = refill
        self._reserve_ns = reserve_ns
        self._asked: dict[int, tuple[int, int]] = {}
        """Of the frames in flight when they were captured, and the delay that was planned then."""

    def wants_observation(self, now_ns: int) -> bool:
        """Whether it is time for the next observation. No second one is wanted while one is in flight."""
        if self._asked:
            return False
        early_ns: float = 2 * self.delay_ns + self._reserve_ns
        if self._chunk_ns:
            # Who asks as soon as a chunk has come only adds to a load that is too much already.
            early_ns = max(self._refill * self._chunk_ns, min(early_ns, EARLY_MAX * self._chunk_ns))
        return self.buffer.slack_ns(now_ns) <= early_ns

    def budget_ns(self, now_ns: int) -> int:
        """Returns the budget of an observation that is captured now: until the buffer runs dry, less the reserve. Where
        it has run dry already, half of a chunk: actions that come later would be over soon, and what expires gives way
        to a newer observation. 0: how long a chunk lasts is not known yet, so that the stream's own has to do.
        """
        left_ns = self.buffer.slack_ns(now_ns) - self._reserve_ns
        return left_ns if left_ns > 0 else self._chunk_ns // 2

    def asked(self, frame_id: int, captured_ns: int, delay_ns: int) -> None:
        """An observation is on its way."""
        self._asked[frame_id] = captured_ns, delay_ns
        if len(self._asked) > FRAMES_KEPT:
            del self._asked[next(iter(self._asked))]

    def knows(self, frame_id: int) -> bool:
        """Whether that observation is on its way."""
        return frame_id in self._asked

    def answered(self, frame_id: int, delay_ns: int, chunk: Chunk | None, actions: Array | None, now_ns: int) -> int:
        """An observation has its outcome, with actions or without. Returns how many of them are in the buffer."""
        self.delay_ns = delay_ns or self.delay_ns
        asked = self._asked.pop(frame_id, None)
        if asked is None or chunk is None or actions is None:
            return 0
        self.dt_ns, self._chunk_ns = chunk.dt_ns, chunk.horizon * chunk.dt_ns
        return self.buffer.add(chunk, actions, *asked, now_ns)


class ActionStream:
    """A stream of observations to a policy, and the actions that follow from them.

    async with client.stream("policy") as stream:
        actions = ActionStream(stream)
        reading = asyncio.create_task(actions.run())
        while not reading.done():
            if actions.wants_observation():
                await actions.observe(observation())     # its budget: until the buffer runs dry
            robot.do(actions.action())                   # None: the buffer is dry
            await tick()
    """

    def __init__(self, stream: Stream, *, refill: float = 0.5, reserve_ms: float = 5.0, blend_steps: int = 0) -> None:
        """`refill`: an observation is wanted when no more than this share of the newest chunk is left; before that, but
        not before half of it is gone, when what is left lasts no longer than two planned delays. `reserve_ms`: how long
        before the buffer runs dry a result is wanted at the latest, for the way to the robot. `blend_steps`: see
        `ActionBuffer`. Raises ValueError where the model gives no chunks.
        """
        terms = stream.opened
        if terms.chunk is None:
            raise ValueError("the model gives no action chunks: say in its model.toml which output has them, [chunk]")
        self._stream = stream
        self._supply = ActionSupply(
            terms.chunk.horizon * terms.chunk.dt_ns,
            terms.chunk.dt_ns,
            max(terms.planned_latency_ns, terms.predicted_latency_ns),
            refill=refill,
            reserve_ns=int(reserve_ms * 1e6),
            blend_steps=blend_steps,
        )
        self._early: dict[int, tuple[Outcome, int]] = {}
        """Outcomes that came before `observe` knew the id of their frame, and when."""

    @property
    def buffer(self) -> ActionBuffer:
        return self._supply.buffer

    @property
    def planned_delay_ns(self) -> int:
        """How long the next observation is planned to take, as the server said last."""
        return self._supply.delay_ns

    @property
    def inference_delay(self) -> int:
        """How many actions will be carried out while the policy computes: the planned delay in whole actions."""
        return -(-self._supply.delay_ns // self._supply.dt_ns)

    def action(self) -> Array | None:
        """Returns the action that is due now; None: the buffer has run dry, or has nothing yet."""
        return self.buffer.action(time.monotonic_ns())

    def ahead(self, count: int) -> list[Array]:
        """Returns up to so many of the next actions, the one that is carried out now first."""
        return self.buffer.ahead(time.monotonic_ns(), count)

    def slack_ns(self) -> int:
        """Returns how long the actions last."""
        return self.buffer.slack_ns(time.monotonic_ns())

    def wants_observation(self) -> bool:
        """Whether it is time for the next observation. No second one is wanted while one is in flight."""
        return self._supply.wants_observation(time.monotonic_ns())

    async def observe(self, payload: Payload, *, budget_ms: float | None = None) -> int:
        """Sends an observation that was captured now, and returns the id of its frame. `budget_ms`: None stands for the
        time until the buffer runs dry, less the reserve, or where it has run dry for the stream's own. Waits and raises
        as `Stream.send` does.
        """
        supply = self._supply
        captured_ns, delay_ns = time.monotonic_ns(), supply.delay_ns
        if budget_ms is None:
            budget_ms = supply.budget_ns(captured_ns) / 1e6 or None
        frame_id = await self._stream.send(payload, budget_ms=budget_ms)
        supply.asked(frame_id, captured_ns, delay_ns)
        if early := self._early.pop(frame_id, None):
            self._take(*early)
        return frame_id

    async def receive(self) -> Outcome:
        """Returns the next outcome, whose actions are in the buffer then. Raises as iteration over the stream does."""
        outcome = await anext(self._stream)
        self._take(outcome, time.monotonic_ns())
        return outcome

    async def run(self) -> None:
        """Takes in outcomes until the stream ends. Raises the error that ended it."""
        try:
            while True:
                await self.receive()
        except StopAsyncIteration:
            pass

    def _take(self, outcome: Outcome, now_ns: int) -> None:
        if not self._supply.knows(outcome.frame_id):
            self._early[outcome.frame_id] = outcome, now_ns
            if len(self._early) > FRAMES_KEPT:
                del self._early[next(iter(self._early))]
            return
        chunk = outcome.chunk
        actions = outcome.outputs.get(chunk.output) if chunk else None
        self._supply.answered(outcome.frame_id, outcome.planned_delay_ns, chunk, actions, now_ns)
