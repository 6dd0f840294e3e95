"""Statistics in the protocol's words. A frame is an inference: a request with several rows counts once for each.

| statistic | of duly |
| --- | --- |
| `success` | results, from receipt to hand-over to the transport, whatever protocol they came by |
| `queue` | from receipt until their batch was sent to a lane |
| `compute_input` | until it began to run there |
| `compute_infer` | while it ran, each frame with the whole time of its batch |
| `compute_output` | until the result was handed over |
| `fail` | frames without a result, whatever the reason: drops, refusals, frames that were taken back |
| `execution_count`, `batch_stats` | batches that ran |
"""

from duly.metrics import Tally
from duly.rpc.kserve.messages import ModelStatistics, StatisticDuration


def statistics(name: str, version: str, tally: Tally, last_unix_ns: int) -> ModelStatistics:
    """Returns what became of the frames of a version. `last_unix_ns`: when the last result was; 0: there was none."""
    said = ModelStatistics(
        name=name,
        version=version,
        last_inference=last_unix_ns // 1_000_000,
        inference_count=tally.results,
        execution_count=sum(times.batches for _, times in tally.by_size),
    )
    output_ns = tally.results_ns - tally.queue_ns - tally.input_ns - tally.run_ns
    stats = said.inference_stats
    for duration, count, ns in (
        (stats.success, tally.results, tally.results_ns),
        (stats.fail, tally.failed, tally.failed_ns),
        (stats.queue, tally.results, tally.queue_ns),
        (stats.compute_input, tally.results, tally.input_ns),
        (stats.compute_infer, tally.results, tally.run_ns),
        (stats.compute_output, tally.results, output_ns),
        (stats.cache_hit, 0, 0),
        (stats.cache_miss, 0, 0),
    ):
        _set(duration, count, ns)
    for size, times in tally.by_size:
        batches = said.batch_stats.add(batch_size=size)
        _set(batches.compute_input, times.batches, times.input_ns)
        _set(batches.compute_infer, times.batches, times.run_ns)
        _set(batches.compute_output, times.batches, times.output_ns)
    return said


def _set(duration: StatisticDuration, count: int, ns: int) -> None:
    duration.SetInParent()
    duration.count, duration.ns = count, max(0, ns)
