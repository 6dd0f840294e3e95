"""Keeps the open streams of all front ends: how many there may be, whether they fit, and how they end.

A stream opens in a turn of its own (`Admission`), so that the next one is judged with it in place. It is counted until
its call is over. Streams whose clients do not read are ended here, and so are all streams at the end of a drain.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from duly.core.types import StreamClass, Verdict
from duly.metrics import Metrics
from duly.runtime.admission import Admission, Busy, Refused
from duly.streams.errors import CallError
from duly.streams.limits import Limits, PrincipalUse
from duly.streams.quota import Meters
from duly.streams.rights import Rights
from duly.streams.stream import Stream, StreamHost
from duly.streams.terms import StreamRequest

_WITHOUT_CRITICAL = "open it as STANDARD, or give the client a credential"


class OpenStreams:
    def __init__(self, host: StreamHost, metrics: Metrics, admission: Admission, slow_reader_timeout_s: float) -> None:
        self.host = host
        self._metrics = metrics
        self._admission = admission
        self._slow_reader_ns = int(slow_reader_timeout_s * 1e9)
        self._open: dict[Stream, None] = {}
        self._uses: dict[str, PrincipalUse] = {}
        """What each principal uses that has streams or single frames under way."""
        self._unproven_critical: set[Stream] = set()
        """The open CRITICAL streams whose principals no credential proves."""
        self._meters = Meters(len(host.catalogue.lanes))
        self.draining = False

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

    async def open(self, asked: StreamRequest, rights: Rights) -> Stream:
        """Opens a stream, which is counted until `closed`. A notice for its client is then in its outbox.

        Raises InvalidTerms, ModelError, or CallError where the caller has no right to it, there is no room for it, or
        it would not be served.
        """
        self._check_server()
        principal = rights.principal
        rights.check_model(asked.model)
        self._check_principal(rights)
        served = self.host.catalogue.find(asked.model, asked.version)
        use = self._claim(rights)
        try:
            stream = Stream(asked, served, self.host, principal, use)
            rights.check_class(stream.terms.stream_class, asked.stream_class)
            try:
                async with self._admission.turn(stream.terms) as verdict:
                    self._check_server()
                    unproven_critical = stream.terms.stream_class is StreamClass.CRITICAL and not rights.proven
                    if unproven_critical:
                        self._check_critical(verdict)
                    stream.open(verdict)
                    self._open[stream] = None
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
            stream = Stream(asked, served, self.host, principal, use)
            rights.check_class(stream.terms.stream_class, asked.stream_class)
            stream.open()
            try:
                yield stream
            finally:
                stream.close()
                stream.abandon()
        finally:
            self._release(principal, use)

    def _check_server(self) -> None:
        if self.draining:
            raise CallError("DRAINING", "the server is draining; open the stream elsewhere")
        streams_max = self.limits.server.streams_max
        if len(self._open) >= streams_max:
            raise CallError("STREAMS_EXHAUSTED", f"{streams_max} streams are open already (streams_max)")

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
        """Ends streams whose clients do not take what is written to them. It must be called periodically."""
        now_ns = self.host.driver.clock()
        for stream in self._open:
            stuck_ns = stream.stuck_ns(now_ns)
            if stuck_ns > self._slow_reader_ns and not stream.ended.done():
                stream.log.warning("client does not read", stuck_s=stuck_ns / 1e9)
                text = f"the client took nothing for {stuck_ns / 1e9:.0f} s (slow_reader_timeout_s)"
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
