"""perf_analyzer, in all of its ways to ask, comes to its end: it stops at the first answer that it doesn't take."""

from collections.abc import Callable

import pytest

from tests.peers.kserve import perf_analyzer
from tests.peers.kserve.perf_analyzer import STEADY, cuda_runtime, measure, tool
from tests.peers.kserve.servers import KINDS, Served

pytestmark = [
    pytest.mark.peers,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not tool(), reason="perf_analyzer is not installed; PERF_ANALYZER may say where it is"),
]

COUNTED = ("--measurement-mode", "count_windows", "--measurement-request-count", "50", *STEADY)
STREAMED = ("--streaming", "--async")
WAYS = {
    "unary": ("add_sub", ("--concurrency-range", "1:4:3")),
    "unary_async": ("add_sub", ("--async", "--concurrency-range", "4")),
    "streaming": ("add_sub", (*STREAMED, "--concurrency-range", "4")),
    "batches": ("add_sub", ("-b", "8", "--concurrency-range", "2")),
    "batches_streaming": ("add_sub", ("-b", "8", *STREAMED, "--concurrency-range", "2")),
    "request_rate": ("add_sub", ("--request-rate-range", "50:100:50")),
    "request_rate_poisson": ("add_sub", ("--request-rate-range", "50", "--request-distribution", "poisson")),
    "request_rate_streaming": ("add_sub", (*STREAMED, "--request-rate-range", "50")),
    "sequences": ("accumulate", (*STREAMED, "--concurrency-range", "4", "--sequence-length", "5")),
    "sequences_unary": ("accumulate", ("--concurrency-range", "2", "--sequence-length", "5")),
    "sequences_rate": ("accumulate", (*STREAMED, "--request-rate-range", "50", "--num-of-sequences", "3")),
    # Its random bytes for BOOL are neither 0 nor 1, which duly refuses.
    "every_type": ("types", ("-b", "2", "--concurrency-range", "2", "--input-data", "zero")),
    "strings": ("text", ("--shape", "in_string:3", "--string-length", "8", "--concurrency-range", "2")),
    "no_batch": ("unbatched", ("--concurrency-range", "2")),
    "reshaped": ("scalar", ("--concurrency-range", "2")),
    "zeros": ("add_sub", ("--input-data", "zero", "--concurrency-range", "2")),
    "compressed": ("add_sub", ("--grpc-compression-algorithm", "gzip", "--concurrency-range", "2")),
}
"""The model and the options of each way."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_way(served: Callable[[str, str], Served], kind: str, way: str) -> None:
    model, options = WAYS[way]
    rows = measure(served(kind, "plain").address, model, *COUNTED, *options)
    assert rows
    assert all(row.inferences_per_s > 0 for row in rows)


@pytest.mark.parametrize("kind", KINDS)
def test_windows_of_time(served: Callable[[str, str], Served], kind: str) -> None:
    options = ("--measurement-mode", "time_windows", "--measurement-interval", "500", *STEADY)
    (row,) = measure(served(kind, "plain").address, "add_sub", *options, "--concurrency-range", "2")
    assert row.asked == 2
    assert row.inferences_per_s > 0


@pytest.mark.skipif(
    cuda_runtime() is None, reason="perf_analyzer opens libcudart for any shared memory: make peers-kserve"
)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("streamed", [(), STREAMED], ids=["unary", "streaming"])
def test_shared_memory(served: Callable[[str, str], Served], kind: str, streamed: tuple[str, ...]) -> None:
    # Every sixth of its workers has a connection of its own, and the first one registers regions for all.
    options = ("--output-shared-memory-size", "1024", "--concurrency-range", "16", *streamed)
    rows = measure(served(kind, "principal").address, "add_sub", *COUNTED, *options, shared_memory=True)
    assert rows[0].inferences_per_s > 0


@pytest.mark.parametrize("kind", KINDS)
def test_it_says_what_is_wrong(served: Callable[[str, str], Served], kind: str) -> None:
    with pytest.raises(perf_analyzer.PerfAnalyzerError, match="nobody"):
        measure(served(kind, "plain").address, "nobody", *COUNTED)
