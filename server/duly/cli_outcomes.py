"""What `duly stream` prints: the outcomes in plain words or as JSON, a summary, and what of a recording is no use."""

import json
import math
from collections import Counter, deque
from typing import Any

import click
import numpy as np

from duly_client import BFLOAT16, Outcome, Status, StreamTerms
from duly_client.convert import Array, numbers_or_text
from duly_client.recordings import Recording, RecordingError

OUTPUT_ELEMENTS_MAX = 1024
"""Larger outputs are shown by their shape alone."""
LATENCIES_MAX = 100_000
"""Number of newest results whose latency the summary counts."""
TEXTS_MAX, TEXT_CHARS_MAX = 8, 200
"""Number of texts of an output that a line in plain words shows, and the characters of each."""
DETECTIONS_MAX = 8
"""Number of detections that a line in plain words shows."""

TOLD_MAX = 20
"""Number of pieces of a recording that cannot be used and are told one by one. Further ones are counted."""


class Unusable:
    """Tells what of a recording cannot be used, each with its name on a line of standard error, or ends the run."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.passed_over = 0
        self.names: dict[int, str] = {}
        """Where the frames in flight come from, by frame number."""
        self._told = 0

    def pass_over(self, error: RecordingError) -> None:
        """Tells of a piece that is not sent. Raises it where nothing may be passed over."""
        if self.strict:
            raise error
        self.passed_over += 1
        self.tell(f"passed over: {error}")

    def tell(self, text: str) -> None:
        self._told += 1
        if self._told <= TOLD_MAX:
            click.echo(f"duly: {text}", err=True)
        elif self._told == TOLD_MAX + 1:
            click.echo("duly: what else cannot be used is counted and no longer told", err=True)


class OutcomePrinter:
    """Prints the terms of a stream, its outcomes as they come, and a summary."""

    def __init__(self, terms: StreamTerms, as_json: bool, unusable: Unusable) -> None:
        self._terms = terms
        self._unusable = unusable
        self._as_json = as_json
        self._labels = next((spec.labels for spec in terms.outputs if spec.labels), ())
        self._counts: Counter[Status] = Counter()
        self._guards: Counter[str] = Counter()
        self._latencies_ms: deque[float] = deque(maxlen=LATENCIES_MAX)

    def begin(self, model: str, server: str, recording: Recording, period_s: float) -> None:
        rate = f"every {period_s * 1000:.4g} ms" if period_s else "as they come"
        text = (
            f"{recording.description}, {rate}, to {model} version {self._terms.version} at {server}; "
            f"budget {self._terms.default_budget_ns / 1e6:g} ms, one frame takes about "
            f"{self._terms.planned_latency_ns / 1e6:.3g} ms"
        )
        click.echo(text, err=True)
        if recording.left_out:
            click.echo(recording.left_out, err=True)
        if self._terms.admission_warning:
            click.echo(f"the server expects misses: {self._terms.admission_warning}", err=True)

    def outcome(self, outcome: Outcome, stream_key: str) -> None:
        """Prints an outcome. `stream_key`: by what labels name its stream; empty: no frames of it are kept. Raises
        ClickException where it is INVALID and nothing may be passed over.
        """
        source = self._unusable.names.pop(outcome.frame_id, "")
        if outcome.status is Status.INVALID:
            if self._unusable.strict:
                raise click.ClickException(f"{source or f'frame {outcome.frame_id}'}: {outcome.reason}")
            if source:
                self._unusable.tell(f"{source}: {outcome.reason}")
        latency_ms = outcome.latency_ns / 1e6
        self._counts[outcome.status] += 1
        self._guards.update(outcome.guards)
        if outcome.ok:
            self._latencies_ms.append(latency_ms)
        if self._as_json:
            click.echo(json.dumps(({"stream": stream_key} if stream_key else {}) | _as_json(outcome)))
            return
        words = outcome.status.name.lower().replace("_", " ")
        line = f"frame {outcome.frame_id}  {words}"
        if outcome.ok:
            line += f"  {latency_ms:.1f} ms  {_in_words(outcome.outputs, self._labels)}"
        if outcome.guards:
            line += f"  [{', '.join(outcome.guards)}]"
        click.echo(f"{line}  ({outcome.reason})" if outcome.reason else line)

    @property
    def served(self) -> bool:
        """Some frame was one that the model could run on, whatever became of it."""
        return any(status not in (Status.INVALID, Status.FAILED) for status in self._counts)

    def nothing_served(self, recording: Recording) -> str:
        parts = [f"{self._unusable.passed_over} passed over"] if self._unusable.passed_over else []
        parts += [f"{count} {status.name.lower()}" for status, count in sorted(self._counts.items())]
        why = f"nothing was served: {', '.join(parts)}" if parts else "no frame came"
        return f"{recording.description}: {why}"

    def end(self) -> None:
        sent = self._counts.total()
        p50_ms, p99_ms = np.percentile(self._latencies_ms, (50, 99)) if self._latencies_ms else (0.0, 0.0)
        counts = {status.name: count for status, count in sorted(self._counts.items())}
        if self._as_json:
            latency = {"p50": round(p50_ms, 3), "p99": round(p99_ms, 3)} if self._latencies_ms else None
            passed_over = self._unusable.passed_over
            summary = {
                "sent": sent,
                "passed_over": passed_over,
                "outcomes": counts,
                "guards": dict(sorted(self._guards.items())),
                "latency_ms": latency,
            }
            click.echo(json.dumps(summary))
            return
        shares = ", ".join(f"{count} {name.lower().replace('_', ' ')}" for name, count in counts.items())
        latency_text = f"; latency p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms" if self._latencies_ms else ""
        more = f"; {self._unusable.passed_over} passed over" if self._unusable.passed_over else ""
        flags = "".join(f"; {name} on {count}" for name, count in sorted(self._guards.items()))
        click.echo(f"{sent} frame{'' if sent == 1 else 's'} sent: {shares or 'none'}{more}{flags}{latency_text}")


def _in_words(outputs: dict[str, Array], labels: tuple[str, ...]) -> str:
    if outputs.keys() >= {"scores", "classes"}:
        found = [
            f"{labels[number] if number < len(labels) else f'class {number}'} {score:.2f}"
            for score, number in zip(outputs["scores"].tolist(), outputs["classes"].tolist(), strict=True)
        ]
        more = f", and {len(found) - DETECTIONS_MAX} more" if len(found) > DETECTIONS_MAX else ""
        return (", ".join(found[:DETECTIONS_MAX]) or "nothing found") + more
    if len(outputs) == 1 and (only := numbers_or_text(next(iter(outputs.values())))).size == 1:
        return _quoted(only) if only.dtype.kind == "O" else f"{only.item():.3g}"
    return ", ".join(
        f"{name} {_quoted(array) if array.dtype.kind == 'O' and array.size <= TEXTS_MAX else _spelled(array)}"
        for name, array in outputs.items()
    )


def _spelled(array: Array) -> str:
    name = {"O": "text"}.get(array.dtype.kind, "bfloat16" if array.dtype == BFLOAT16 else str(array.dtype))
    return f"{name}{list(array.shape)}"


def _quoted(array: Array) -> str:
    texts = [json.dumps(text, ensure_ascii=False) for text in array.ravel().tolist()]
    return ", ".join(text if len(text) <= TEXT_CHARS_MAX else f"{text[:TEXT_CHARS_MAX]}…" for text in texts)


def _as_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "frame_id": outcome.frame_id,
        "status": outcome.status.name,
        "latency_ms": round(outcome.latency_ns / 1e6, 3),
        "slack_ms": round(outcome.slack_ns / 1e6, 3),
        "version": outcome.version,
        "variant": outcome.variant,
        "batch_size": outcome.batch_size,
        "reason": outcome.reason,
        "guards": list(outcome.guards),
        "outputs": {
            name: _elements(array) if array.size <= OUTPUT_ELEMENTS_MAX else {"shape": list(array.shape)}
            for name, array in outcome.outputs.items()
        },
    }


def _elements(array: Array) -> Any:
    """The elements as JSON can hold them, which has no number for "NaN", "Infinity" and "-Infinity"."""
    array = numbers_or_text(array)
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return array.tolist()
    if array.ndim:
        return [_elements(part) for part in array]
    number = float(array)
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
