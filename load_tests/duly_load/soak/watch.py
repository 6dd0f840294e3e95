"""What a server and the harness hold and how late the server is, looked at again and again while a soak runs."""

import http.client
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Self

import grpc
import psutil
from prometheus_client.parser import text_string_to_metric_families

from duly.v1 import server_pb2, server_pb2_grpc
from duly_client.proxy import channel_options

ASK_EVERY_S = 1.0
ASK_TIMEOUT_S = 5.0
STOPPED_PERIODS = 3
"""Periods without a sample after which none is expected any more."""
METRICS_BYTES_MAX = 16 * 2**20
LAG_METRIC = "duly_event_loop_lag_seconds"


@dataclass(frozen=True, slots=True)
class Usage:
    """What some processes hold together. None: may not be read here."""

    rss_bytes: int
    """Resident memory; shared pages are counted in every process that maps them."""
    pss_bytes: int | None
    """Memory with shared pages divided among the processes that map them."""
    uss_bytes: int | None
    """Memory that no other process maps."""
    descriptors: int | None
    threads: int
    processes: int
    cpu_s: float


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """What a duly server says of itself."""

    streams_open: int
    frames_in_flight: int
    bytes_in_flight: int
    answer_ms: float
    """How long it took to answer that, at worst since the sample before. Its event loop does it: no less than the
    loop's lag was at that instant."""


@dataclass(frozen=True, slots=True)
class LoopLag:
    """How late the event loop was for its timers since the sample before, as the server itself measures it."""

    mean_ms: float
    p99_ms: float
    """The upper edge of the bucket that it falls into."""


@dataclass(frozen=True, slots=True)
class Sample:
    at_s: float
    """The time since the soak began."""
    server: Usage | None
    """What the server holds; None: its processes are not known, on another machine, or gone."""
    harness: Usage
    """The process that runs the soak, without its senders, which come and go."""
    asked: ServerStatistics | None
    """What a duly server says of itself; None: it is another server, or did not answer."""
    loop_lag: LoopLag | None
    """The lag of its event loop; None: it has no metrics, or nothing new in them."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What there is to look at."""

    pid: int | None
    """The process id of the server, whose children count too; None: not known."""
    endpoint: str | None
    """The endpoint of a duly server, as gRPC takes it; None: it is another server."""
    metrics: str | None
    """The URL of its metrics for Prometheus; None: it is not known."""


class Watch:
    """Looks every `period_s` inside a `with` block, from a thread of its own."""

    def __init__(self, watched: Watched, period_s: float, report: Callable[[Sample], None]) -> None:
        """`report` is called from that thread."""
        self._watched = watched
        self._period_s = period_s
        self._report = report
        self._begin_s = time.monotonic()
        self._lag = _LagReader(watched.metrics) if watched.metrics else None
        self._failed = 0
        self._error = ""
        """The error of the first sample that failed."""
        self._last_s = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    @property
    def at_s(self) -> float:
        """The time since the soak began."""
        return time.monotonic() - self._begin_s

    def notes(self) -> list[str]:
        """What is missing of the samples, in words; when the soak is over."""
        found = [f"{self._failed:,} samples failed, the first with {self._error}"] if self._failed else []
        if self.at_s - self._last_s > STOPPED_PERIODS * self._period_s + 2 * ASK_TIMEOUT_S:
            found.append(f"samples stopped at {self._last_s:,.0f} s of {self.at_s:,.0f}")
        return found

    def _run(self) -> None:
        endpoint = self._watched.endpoint
        if endpoint is None:
            self._look_on(None)
            return
        with grpc.insecure_channel(endpoint, channel_options(endpoint)) as channel:
            self._look_on(server_pb2_grpc.ServerServiceStub(channel))

    def _look_on(self, stub: "server_pb2_grpc.ServerServiceStub | None") -> None:
        asked: ServerStatistics | None = None
        answer_ms, next_s = 0.0, 0.0
        while True:
            try:
                if stub is not None:
                    asked = ask(stub)
                    answer_ms = max(answer_ms, asked.answer_ms if asked else ASK_TIMEOUT_S * 1e3)
                if self.at_s >= next_s:
                    self._report(self._sample(asked, answer_ms))
                    self._last_s = self.at_s
                    answer_ms, next_s = 0.0, max(next_s + self._period_s, self._last_s)
            except Exception as error:  # whatever it is: hours of samples are still to come
                self._failed += 1
                self._error = self._error or f"{type(error).__name__}: {error}"
                next_s = self.at_s + self._period_s
            if self._stopping.wait(min(ASK_EVERY_S, max(0.0, next_s - self.at_s))):
                return

    def _sample(self, asked: ServerStatistics | None, answer_ms: float) -> Sample:
        pid = self._watched.pid
        harness = usage([psutil.Process()])
        assert harness is not None
        if asked is not None:
            asked = replace(asked, answer_ms=answer_ms)
        return Sample(
            self.at_s,
            None if pid is None else usage_of_tree(pid),
            harness,
            asked,
            self._lag.since_last() if self._lag else None,
        )


def usage_of_tree(pid: int) -> Usage | None:
    """The usage of a process and all its children; None: it is gone."""
    try:
        server = psutil.Process(pid)
        return usage([server, *server.children(recursive=True)])
    except psutil.NoSuchProcess:
        return None


def usage(processes: list[psutil.Process]) -> Usage | None:
    """The usage of the processes that are still there; None: none is."""
    rss_bytes = pss_bytes = uss_bytes = descriptors = threads = there = 0
    cpu_s = 0.0
    memory_known = descriptors_known = True
    for process in processes:
        with suppress(psutil.NoSuchProcess), process.oneshot():
            rss = process.memory_info().rss
            count = process.num_threads()
            cpu_s += sum(process.cpu_times()[:2])
            try:
                full = process.memory_full_info()
                pss_bytes, uss_bytes = pss_bytes + full.pss, uss_bytes + full.uss
            except psutil.AccessDenied:
                memory_known = False
            try:
                descriptors += process.num_fds()
            except psutil.AccessDenied:
                descriptors_known = False
            rss_bytes, threads, there = rss_bytes + rss, threads + count, there + 1
    if not there:
        return None
    return Usage(
        rss_bytes,
        pss_bytes if memory_known else None,
        uss_bytes if memory_known else None,
        descriptors if descriptors_known else None,
        threads,
        there,
        cpu_s,
    )


def ask(stub: "server_pb2_grpc.ServerServiceStub") -> ServerStatistics | None:
    """The server's statistics; None: it does not answer."""
    begin_ns = time.monotonic_ns()
    try:
        statistics = stub.GetStatistics(server_pb2.GetStatisticsRequest(), timeout=ASK_TIMEOUT_S).statistics
    except grpc.RpcError:
        return None
    took_ms = (time.monotonic_ns() - begin_ns) / 1e6
    return ServerStatistics(statistics.streams_open, statistics.frames_in_flight, statistics.bytes_in_flight, took_ms)


class _LagReader:
    """The histogram of the loop's lag at a server's metrics: what came into it since it was read last."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._last: dict[str, float] = {}

    def since_last(self) -> LoopLag | None:
        try:
            with self._opener.open(self._url, timeout=ASK_TIMEOUT_S) as answer:
                now = lag_histogram(answer.read(METRICS_BYTES_MAX).decode())
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError):
            return None
        last, self._last = self._last, now
        return lag_between(last, now) if last else None


def lag_histogram(metrics: str) -> dict[str, float]:
    """The histogram in the server's metrics: observations up to each edge in s, by `le`, `count` and `sum`. Raises
    ValueError where it is no text of Prometheus.
    """
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics):
        if family.name == LAG_METRIC:
            for sample in family.samples:
                found[sample.labels.get("le", sample.name.rpartition("_")[2])] = float(sample.value)
    return found


def lag_between(last: dict[str, float], now: dict[str, float]) -> LoopLag | None:
    """The lag between two readings; None: nothing came in between, the server began anew, or it has no buckets."""
    count = now.get("count", 0.0) - last.get("count", 0.0)
    if count <= 0:
        return None
    finite = sorted((edge for edge in now if edge not in ("count", "sum", "+Inf")), key=float)
    if not finite:
        return None
    # What lies beyond the last edge is reported as that edge: the least that it can be.
    p99_s = float(next((edge for edge in finite if now[edge] - last.get(edge, 0.0) >= 0.99 * count), finite[-1]))
    return LoopLag((now.get("sum", 0.0) - last.get("sum", 0.0)) / count * 1e3, p99_s * 1e3)
