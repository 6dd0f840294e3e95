"""The program of this client for the conformance suite; see clients/conformance/README.md."""

import asyncio
import base64
import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from duly_client import BFLOAT16, Advice, Client, DulyError, Feedback, Outcome, Stream, to_bfloat16, to_float32
from duly_client.clock import Clock
from duly_client.pace import Pace

Command = Mapping[str, Any]
OPTIONS = ("version", "name", "budget_ms", "period_ms", "backlog", "backlog_frames", "ordering", "outputs", "gap")
MORE_OPTIONS = ("variant_lowest", "follow_advice")


def say(event: str, **what: Any) -> None:
    print(json.dumps({"event": event, **what}), flush=True)


class Program:
    def __init__(self) -> None:
        self._client: Client | None = None
        self._stream: Stream | None = None
        self._reading: asyncio.Task[None] | None = None

    async def open(self, command: Command) -> None:
        terms = {key: command[key] for key in OPTIONS + MORE_OPTIONS if key in command}
        terms |= {"stream_class": command.get("class"), "check": False, "on_advice": say_advice}
        if "floor" in command:
            terms["floor"] = tuple(command["floor"])
        self._client = Client(
            command["target"],
            token=command.get("token"),
            reconnect=command.get("reconnect", True),
            open_timeout_s=command.get("open_timeout_ms", 10_000) / 1e3,
            transport="grpc",
        )
        await self._client.__aenter__()
        stream = self._client.stream(command["model"], **terms)
        try:
            await stream.__aenter__()
        except DulyError as error:
            say("refused", reason=error.reason, message=str(error), metadata=error.metadata)
            return
        agreed = stream.opened
        say(
            "opened",
            version=agreed.version,
            **{"class": agreed.stream_class},
            backlog=agreed.backlog,
            backlog_frames=agreed.backlog_frames,
            ordering=agreed.ordering,
            budget_ms=agreed.default_budget_ns / 1e6,
            frames_in_flight_max=agreed.frames_in_flight_max,
            inputs=[{"name": each.name, "dtype": each.datatype, "shape": each.shape} for each in agreed.inputs],
            outputs=[{"name": each.name, "dtype": each.datatype, "shape": each.shape} for each in agreed.outputs],
        )
        self._stream = stream
        self._reading = asyncio.create_task(self._read(stream))

    async def send(self, command: Command) -> None:
        assert self._stream is not None
        budget_ms, must_run = command.get("budget_ms"), command.get("must_run", False)
        payload: Any
        if "data" in command:
            payload, encoding = base64.b64decode(command["data"]), command["format"]
        else:
            values = values_of(command)
            payload, encoding = values.reshape(command.get("shape", values.shape)), None
        if "input" in command:
            payload = {command["input"]: payload}
        ids = []
        for _ in range(command.get("count", 1)):
            captured_ns = time.time_ns() - int(command.get("captured_ago_ms", 0) * 1e6)
            ids.append(
                await self._stream.send(
                    payload, capture_time_ns=captured_ns, budget_ms=budget_ms, must_run=must_run, encoding=encoding
                )
            )
        say("sent", ids=ids)

    async def cancel(self, command: Command) -> None:
        assert self._stream is not None
        self._stream.cancel(command["ids"])

    async def feedback(self, command: Command) -> None:
        assert self._client is not None
        assert self._stream is not None
        items = []
        for item in command["items"]:
            label = item.get("number", item.get("name"))
            if "output" in item:
                label = {item["output"]: np.array(item["values"], np.float32)}
            key = item.get("key", self._stream.key_of(item["id"]))
            items.append(Feedback(key, item["id"], label, item.get("weight", 1.0), item.get("source", "")))
        try:
            results = await self._client.feedback(items)
        except DulyError as error:
            say("labelled", reason=error.reason, statuses=[], reasons=[])
            return
        say("labelled", reason="", statuses=[each.status.name for each in results], reasons=[r.reason for r in results])

    async def clock(self, _: Command) -> None:
        assert self._stream is not None
        say_clock(self._stream.clock)

    async def finish(self, _: Command) -> None:
        assert self._stream is not None
        await self._stream.finish()

    async def close(self, _: Command) -> None:
        assert self._stream is not None
        await self._stream.close()

    async def clock_of(self, command: Command) -> None:
        clock = Clock()
        for exchange in command["exchanges"]:
            clock.add(*exchange)
        say_clock(clock.estimate(command["now_ns"]))

    async def pace_of(self, command: Command) -> None:
        pace = Pace()
        pace.advised(0, command["period_ns"], command["phase"])
        due = []
        for at_ns in command["at_ns"]:
            due.append(pace.due(at_ns))
            if due[-1]:
                pace.sent(at_ns)
        say("pace", due=due)

    async def run(self) -> None:
        while line := await asyncio.to_thread(sys.stdin.readline):
            command = json.loads(line)
            try:
                await getattr(self, command.pop("do"))(command)
            except Exception as error:
                say("error", message=repr(error))
        if self._stream is not None:
            await self._stream.close()
        if self._reading is not None:
            await self._reading
        if self._client is not None:
            await self._client.close()

    async def _read(self, stream: Stream) -> None:
        reason = message = ""
        try:
            async for outcome in stream:
                say_outcome(outcome)
        except DulyError as error:
            reason, message = error.reason, str(error)
        say("ended", reason=reason, message=message)


def values_of(command: Command) -> np.ndarray:
    if "texts" in command:
        return np.array(command["texts"], object)
    values = np.array(command["values"], np.float32)
    return to_bfloat16(values) if command.get("dtype") == "BF16" else values


def plain(array: np.ndarray) -> list[Any]:
    elements: list[Any] = (to_float32(array) if array.dtype == BFLOAT16 else array).ravel().tolist()
    return elements


def say_outcome(outcome: Outcome) -> None:
    timing = outcome.timing
    say(
        "outcome",
        id=outcome.frame_id,
        status=outcome.status.name,
        outputs={name: plain(array) for name, array in outcome.outputs.items()},
        version=outcome.version,
        reason=outcome.reason,
        latency_ms=outcome.latency_ns / 1e6,
        capture_to_receipt_ms=timing.capture_to_receipt_ns / 1e6,
        clock_uncertainty_ms=timing.clock_uncertainty_ns / 1e6,
        guards=outcome.guards,
    )


def say_advice(advice: Advice) -> None:
    say("advice", kind=advice.kind, period_ms=advice.period_ns / 1e6, version=advice.version, reason=advice.reason)


def say_clock(estimate: tuple[int, int] | None) -> None:
    offset_ns, uncertainty_ns = estimate or (None, None)
    say("clock", offset_ns=offset_ns, uncertainty_ns=uncertainty_ns)


if __name__ == "__main__":
    asyncio.run(Program().run())
