"""Keeps the open streams of all front ends: how many there may be, whether they fit, and how they end.

A stream opens in a turn of its own (`Admission`), so that the next one is judged with it in place. It is counted until
its call is over. Streams whose clients do not read are ended here, and so are all streams at the end of a drain.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from duly.core.types import StreamClass, Verdict
from duly.metrics import Metrics
from duly.models.spec import STATES_MAX
from duly.runtime.admission import Admission, Busy, Refused
from duly.streams.errors import CallError
from duly.streams.fusion import FusionGroups, InputTaken
from duly.streams.half_messages import HalfMessages
from duly.streams.limits import Limits, PrincipalUse
from duly.streams.quota import Meters
from duly.streams.rights import Rights
from duly.streams.stream import Stream, StreamHost
from duly.streams.terms import StreamRequest

SILENT_NS = 10_000_000_000
"""A stream that has sent no frame for so long since it opened, or since several were due by its stated period, makes
room for others when no more may be open."""
ROOM_SECONDS_MAX = 1.0
"""How long an opening waits for the end of the stream that makes room for it."""
NO_ROOM = ("ADMISSION_REFUSED", "STREAMS_EXHAUSTED")
GHOST_NS, GHOST_PERIODS = 500_000_000, 3
"""A stream whose client has sent nothing for so long, and for so many of its stated periods, may be what is left of a
link that broke."""
GHOST_TURNS_MAX = 20
"""How many turns of the loop the end of a stream may take."""
COPIES = 3
"""Frames and results may be in memory so many times, as the transport and protobuf copy them."""
PRESSED_NS = 1_000_000_000
"""When the memory for results is full, or no more streams may be open, clients that took nothing for so long are ended.
"""
_WITHOUT_CRITICAL = "open it as STANDARD, or give the client a credential"


class OpenStreams:
    def __init__(self, host: StreamHost, metrics: Metrics, admission: Admission, slow_reader_timeout_s: float) -> None:
        self.host = host
        self._metrics = metrics
        self._admission = admission
        self.slow_reader_s = slow_reader_timeout_s
        """How long clients may take nothing."""
        self._open: dict[Stream, None] = {}
        self._uses: dict[str, PrincipalUse] = {}
        """What each principal uses that has streams or single frames under way."""
        self._unproven_critical: set[Stream] = set()
        """The open CRITICAL streams whose principals no credential proves."""
        self._meters = Meters(len(host.catalogue.lanes))
        self._fusion = FusionGroups(host.driver)
        self._opened = 0
        """How many streams and single frames there have been."""
        self._half_messages = HalfMessages(host.memory.bytes_max)
        self.draining = False
        self._room: asyncio.Future[None] | None = None
        """Done when the next stream is gone, if anybody waits for that."""

    def __len__(self) -> int:
        return len(self._open)

    @property
    def limits(self) -> Limits:
        return self.host.limits

    def by_model(self) -> dict[str, int]:
        """Returns how many streams are open, by the model version that serves them. It may be called from any
        thread.
        """
        counts: dict[str, int] = {}
        for stream in list(self._open):
            counts[stream.model] = counts.get(stream.model, 0) + 1
        return counts

    # ---- opening ----

    async def open(self, asked: StreamRequest, rights: Rights, connection: str = "") -> Stream:
        """Opens a stream, which is counted until `closed`. A notice for its client is then in its outbox. `connection`:
        what tells the client's connection from others.

        Where there is no room, a stream of the same principal, name and model that has gone silent gives way: it is
        what is left of a link that broke.

        Raises InvalidTerms, ModelError, or CallError where the caller has no right to it, there is no room for it, or
        it would not be served.
        """
        try:
            return await self._open_now(asked, rights, connection)
        except CallError as error:
            if error.reason not in NO_ROOM or not await self._end_ghosts(asked, rights.principal, connection):
                raise
        except InputTaken:
            if not await self._end_ghosts(asked, rights.principal, connection):
                raise
        return await self._open_now(asked, rights, connection)

    async def _open_now(self, asked: StreamRequest, rights: Rights, connection: str) -> Stream:
        await self._make_room(connection)
        self._check_server()
        principal = rights.principal
        rights.check_model(asked.model)
        self._check_principal(rights)
        served = self.host.catalogue.find(asked.model, asked.version)
        use = self._claim(rights)
        try:
            stream = Stream(asked, served, self.host, principal, use, connection, self._key(asked, principal))
            rights.check_class(stream.terms.stream_class, asked.stream_class)
            group = None
            if asked.fusion is not None:
                group = partial(self._fusion.with_member, stream)
                group()
            try:
                async with self._admission.turn(stream.terms, connection, group) as verdict:
                    self._check_server()
                    self._check_states(stream)
                    unproven_critical = stream.terms.stream_class is StreamClass.CRITICAL and not rights.proven
                    if unproven_critical:
                        self._check_critical(verdict)
                    if asked.fusion is not None:
                        self._fusion.join(stream)
                    stream.open(verdict)
                    self._open[stream] = None
                    self.host.lag.start()
                    if unproven_critical:
                        self._unproven_critical.add(stream)
            except Refused as refused:
                raise _refusal(refused.verdict, stream.variants, self.limits.stream.budget_ns_max) from None
            except Busy as busy:
                raise CallError("ADMISSION_BUSY", f"{busy}; try again in a moment") from None
        except BaseException:
            self._release(principal, use)
            raise
        self._metrics.stream_opened(stream.model)
        stream.log.debug("stream opened")
        return stream

    def closed(self, stream: Stream, opened_as: str) -> None:
        """Counts the stream no more, as its call is over. `opened_as`: the model version that it was opened for."""
        del self._open[stream]
        if not self._open:
            self.host.lag.stop()
        if self._room is not None:
            self._room.set_result(None)
            self._room = None
        self._unproven_critical.discard(stream)
        self._release(stream.principal, self._uses[stream.principal])
        self._metrics.stream_closed(opened_as)

    @contextmanager
    def single(self, asked: StreamRequest, rights: Rights) -> Iterator[Stream]:
        """Opens a stream for one frame, which ends with the context. It waits for no turn, and no notice says that it
        is open.

        Raises InvalidTerms, ModelError, or CallError where the caller has no right to it or there is no room for it.
        """
        if self.draining:
            raise CallError("DRAINING", "the server is draining; ask elsewhere")
        principal = rights.principal
        rights.check_model(asked.model)
        self._check_principal(rights)
        served = self.host.catalogue.find(asked.model, asked.version)
        use = self._claim(rights)
        try:
            stream = Stream(asked, served, self.host, principal, use, key=self._key(asked, principal))
            rights.check_class(stream.terms.stream_class, asked.stream_class)
            stream.open()
            try:
                yield stream
            finally:
                stream.close()
                stream.abandon()
        finally:
            self._release(principal, use)

    def keys(self, name: str) -> list[str]:
        """Returns the keys of the open streams of a model that state no version."""
        mine = (stream for stream in self._open if stream.served.version.name == name)
        return [stream.key for stream in mine if not stream.asked.version]

    def _key(self, asked: StreamRequest, principal: str) -> str:
        """Returns by what a stream is drawn for a version that is tried: its name, which it has again when it comes
        back, or that of its fusion group, all of which goes together. Without a name it is drawn anew each time.
        """
        self._opened += 1
        if asked.fusion is not None:
            return f"{principal}\0fused {asked.fusion.group}"
        return f"{principal}\0{asked.stream_name or self._opened}"

    def _check_server(self) -> None:
        if self.draining:
            raise CallError("DRAINING", "the server is draining; open the stream elsewhere")
        streams_max = self.limits.server.streams_max
        if len(self._open) >= streams_max:
            raise CallError("STREAMS_EXHAUSTED", f"{streams_max} streams are open already (streams_max)")

    async def _make_room(self, connection: str) -> None:
        """Where no more streams may be open, ends the oldest that is silent, or takes nothing, of the connection that
        has the most streams, if those are more than the one that asks has, or its own. Waits until it is gone, as far
        as that is quick.
        """
        if len(self._open) < self.limits.server.streams_max or self.draining:
            return
        now_ns = self.host.driver.clock()
        streams = Counter(stream.connection for stream in self._open)
        silent = [
            stream
            for stream in self._open
            if (stream.silent_ns(now_ns) > SILENT_NS or stream.stuck_ns(now_ns) > PRESSED_NS)
            and not stream.ended.done()
        ]
        victim = max(silent, key=lambda stream: streams[stream.connection], default=None)
        if victim is None or (victim.connection != connection and streams[victim.connection] <= streams[connection]):
            return
        text = "it had sent no frame or taken no outcome for long, and another client needed its place (streams_max)"
        victim.end(CallError("STREAMS_EXHAUSTED", text))
        self._room = self._room or asyncio.get_running_loop().create_future()
        await asyncio.wait([self._room], timeout=ROOM_SECONDS_MAX)

    async def _end_ghosts(self, asked: StreamRequest, principal: str, connection: str) -> bool:
        """Ends streams that the one that is asked for takes the place of. Returns whether there are any."""
        now_ns = self.host.driver.clock()
        ghosts = [
            stream
            for stream in self._open
            if asked.stream_name
            and (stream.asked.stream_name, stream.asked.model) == (asked.stream_name, asked.model)
            and stream.principal == principal
            and stream.connection != connection
            and stream.terms.period_ns
            and now_ns - stream.heard_ns > max(GHOST_NS, GHOST_PERIODS * stream.terms.period_ns)
        ]
        for stream in ghosts:
            stream.log.info("stream gives way to one of the same name")
            stream.end(CallError("STREAMS_EXHAUSTED", "it was silent, and its client opened one of the same name"))
        for _ in range(GHOST_TURNS_MAX):
            if all(stream.closed for stream in ghosts):
                break
            await asyncio.sleep(0)
        self._unproven_critical.difference_update(ghosts)  # their calls may last until the link is given up
        return bool(ghosts)

    def _check_critical(self, verdict: Verdict) -> None:
        """Raises CallError where one more CRITICAL stream is too much from a client without a credential."""
        limits = self.limits.unproven_critical
        if len(self._unproven_critical) >= limits.streams_max:
            text = f"{limits.streams_max} CRITICAL streams of clients without a credential are open already"
            raise CallError("STREAMS_EXHAUSTED", f"{text} (critical_streams_max); {_WITHOUT_CRITICAL}")
        if self._admission.enforces and verdict.utilisation > limits.share_max:
            text = f"with this stream, CRITICAL ones would take {verdict.utilisation:.0%} of their lanes; without a "
            text += f"credential they may take {limits.share_max:.0%} (critical_share_max); {_WITHOUT_CRITICAL}"
            raise CallError("ADMISSION_REFUSED", text)

    def _check_states(self, stream: Stream) -> None:
        """Raises CallError where workers keep the state of as many streams of the model as they may."""
        if not stream.signature.stateful or len(self._open) < STATES_MAX:
            return
        name = stream.served.version.name
        if sum(other.served.version.name == name for other in self._open) >= STATES_MAX:
            text = f"{STATES_MAX} streams of model {name!r} are open already, and it keeps the state of no more"
            raise CallError("STREAMS_EXHAUSTED", text)

    def _check_principal(self, rights: Rights) -> None:
        use = self._uses.get(rights.principal)
        if use is None:
            return
        limits = (
            ("principal_streams_max", self.limits.principal.streams_max),
            ("streams_max of its quota", rights.quota.streams_max),
        )
        for setting, streams_max in limits:
            if 0 < streams_max <= use.streams:
                text = f"{streams_max} streams of the principal are open already ({setting})"
                raise CallError("STREAMS_EXHAUSTED", text)

    def _claim(self, rights: Rights) -> PrincipalUse:
        """Counts one stream more of the principal, until `_release`."""
        use = self._uses.setdefault(rights.principal, PrincipalUse())
        use.streams += 1
        use.meter = self._meters.of(rights.principal, rights.quota)
        return use

    def _release(self, principal: str, use: PrincipalUse) -> None:
        use.streams -= 1
        if not use.streams:
            del self._uses[principal]

    # ---- watching and ending ----

    def judge_anew(self, stream: Stream, rights: Rights) -> None:
        """Holds an open stream to other rights of its principal. Raises CallError where it may not go on."""
        rights.check_model(stream.asked.model)
        rights.check_class(stream.terms.stream_class, stream.asked.stream_class)
        if stream in self._open:
            self._uses[rights.principal].meter = self._meters.of(rights.principal, rights.quota)

    def watch(self) -> None:
        """Ends streams whose clients do not take what is written to them, and has all of them give up video that was
        kept for long. It must be called periodically.
        """
        now_ns = self.host.driver.clock()
        for stream in self._open:
            stream.forget_old_video(now_ns)
            stuck_ns = stream.stuck_ns(now_ns)
            if stuck_ns > self.slow_reader_s * 1e9 and not stream.ended.done():
                self._end_slow(stream, f"the client took nothing for {stuck_ns / 1e9:.0f} s (slow_reader_timeout_s)")
        memory = self.host.memory
        over_bytes = memory.result_bytes - memory.bytes_max
        if over_bytes > 0:
            stuck = [stream for stream in self._open if stream.stuck_ns(now_ns) > PRESSED_NS]
            for stream in sorted(stuck, key=lambda stream: (-stream.stream_class, -stream.result_bytes)):
                if over_bytes > 0 and not stream.ended.done():
                    over_bytes -= stream.result_bytes
                    self._end_slow(stream, f"results that are not read take more than {memory.bytes_max} bytes")

        counted_bytes = COPIES * (self.host.driver.held.bytes + memory.result_bytes)
        for stream in self._half_messages.too_much(now_ns, self._open, counted_bytes):
            if not stream.ended.done():
                stream.log.warning("the server's memory is filled, a silent stream is ended")
                text = "no whole message came for long, and unfinished ones fill the server's memory"
                stream.end(CallError("CLIENT_TOO_SLOW", text))

    def _end_slow(self, stream: Stream, text: str) -> None:
        stream.log.warning("client does not read", reason=text)
        stream.end(CallError("CLIENT_TOO_SLOW", text))

    def drain(self) -> None:
        """Opens no more streams and takes no more single frames."""
        self.draining = True

    def end_all(self) -> None:
        """Ends every stream once its outcomes are sent. Call it when every frame is answered."""
        for stream in self._open:
            stream.end(CallError("DRAINING", "the server has stopped; every frame was answered"))


def _refusal(verdict: Verdict, variants: list[str], budget_ns_max: int) -> CallError:
    """Returns the refusal with the counter-offers in words and, each alone, as metadata: period_nano, budget_nano (no
    more than a stream may ask for), variant.
    """
    offers: dict[str, str] = {}
    words: list[str] = []
    if verdict.counter_period_ns:
        offers["period_nano"] = str(verdict.counter_period_ns)
        words.append(f"with a period of {verdict.counter_period_ns / 1e6:.4g} ms")
    if 0 < verdict.counter_budget_ns <= budget_ns_max:
        offers["budget_nano"] = str(verdict.counter_budget_ns)
        words.append(f"with a budget of {verdict.counter_budget_ns / 1e6:.4g} ms")
    if verdict.counter_rank >= 0:
        offers["variant"] = variants[verdict.counter_rank]
        words.append(f"with variant_lowest {offers['variant']}")
    period_ns, budget_ns = verdict.counter_both_ns
    if words:
        offer = f"it would open {' or '.join(words)}"
    elif 0 < budget_ns <= budget_ns_max:
        offer = (
            f"neither a longer period nor a larger budget alone would do; it would open with a period of "
            f"{period_ns / 1e6:.4g} ms and a budget of {budget_ns / 1e6:.4g} ms together"
        )
    else:
        offer = "nothing near it would do: fewer or faster models, or more lanes"
    return CallError("ADMISSION_REFUSED", f"the stream does not fit: {verdict.reason}; {offer}", metadata=offers)
