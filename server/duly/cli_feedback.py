"""`duly feedback`: sends the labels of a file, and says what became of each."""

import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click

from duly.cli_connection import Connection, connection_options
from duly.cli_labels import BadLine, LabelLine, NoLabels, read_labels
from duly_client import BlockingClient, DulyError, FeedbackResult, FeedbackStatus, ServerUnavailable, StreamRefused
from duly_client.feedback import BYTES_MAX, ITEMS_MAX

TOLD_MAX = 20
"""So many lines of a kind that were not joined are told one by one; further ones are counted."""
TRIES_MAX, TRY_AGAIN_S = 60, 1.0
"""A server that takes no more labels just now is asked again so often, after that pause."""
PROGRESS_S = 2.0
"""How often is told how far it is, at most."""


class NotSent(Exception):
    """The server took some labels of the file and not the others."""


@click.command()
@click.argument("file", metavar="FILE", type=click.Path(allow_dash=True))
@connection_options
@click.option("--json", "as_json", is_flag=True, help="Print what became of the labels as a JSON object.")
def feedback(
    file: str,
    server: str,
    as_json: bool,
    tls: bool,
    tls_ca: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    token_file: str | None,
) -> None:
    """Send the labels in FILE to a server that keeps frames (duly serve --sample or --learn). -: standard input.

    FILE is CSV, whose first line is stream,frame_id,label and perhaps weight,source; or a JSON object with these on
    each line. `stream` is the stream's key, as clients get it. `label` is the number or the name of the right class,
    or an object with what outputs should have been, such as {"scores": [0.1, 0.9]}; numbers with a point are FP32
    where {"datatype": "FP64", "data": [...]} does not say otherwise.

    A line that is no label, and a label that is not joined with its frame, are named on standard error. The exit status
    is 0 where all labels were joined, and else 1. Sending a file again is safe: the newest label of a frame counts.
    """
    client = Connection(server, tls, tls_ca, tls_cert, tls_key, token_file).blocking_client()
    sending = _Sending("standard input" if file == "-" else file)
    try:
        with _opened(file) as lines:
            sending.run(client, lines)
    except NoLabels as error:
        raise click.ClickException(f"{sending.name}: {error}") from error
    finally:
        if sending.read:
            click.echo(json.dumps(sending.counts()) if as_json else sending.in_words())
    if not sending.read:
        raise click.ClickException(f"{sending.name}: there are no labels in it")
    if sending.failed:
        raise click.exceptions.Exit(1)


@contextlib.contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    if file == "-":
        yield sys.stdin.buffer
    else:
        with Path(file).open("rb") as opened:
            yield opened


class _Sending:
    """The labels of one file on their way, and what became of them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.read = 0
        """Lines that were labels, or should have been."""
        self._became: Counter[FeedbackStatus] = Counter()
        self._bad = 0
        self._told: Counter[str] = Counter()
        self._told_s = time.monotonic()

    @property
    def failed(self) -> bool:
        return self._became[FeedbackStatus.JOINED] < self.read

    def counts(self) -> dict[str, int]:
        became = {status.name.lower(): self._became[status] for status in FeedbackStatus}
        return {"lines": self.read, **became, "no_labels": self._bad, "not_sent": self._not_sent}

    def in_words(self) -> str:
        became = [
            f"{count:,} {status.name.lower().replace('_', ' ')}" for status, count in sorted(self._became.items())
        ]
        more = [f"{self._bad:,} no labels"] if self._bad else []
        more += [f"{self._not_sent:,} not sent"] if self._not_sent else []
        return f"{self.read:,} line{'' if self.read == 1 else 's'}: {', '.join(became + more)}"

    @property
    def _not_sent(self) -> int:
        return self.read - self._bad - self._became.total()

    def run(self, client: BlockingClient, file: BinaryIO) -> None:
        """Sends all labels of the file, in messages of no more than the server takes. Raises NoLabels, NotSent,
        OSError, and DulyError where the server takes none at all.
        """
        batch: list[LabelLine] = []
        size_bytes = 0
        with client:
            for line in read_labels(file):
                self.read += 1
                if isinstance(line, BadLine):
                    self._bad += 1
                    self._tell("no label", line.number, line.reason)
                    continue
                if batch and (len(batch) >= ITEMS_MAX or size_bytes + line.size_bytes > BYTES_MAX):
                    self._send(client, batch)
                    batch, size_bytes = [], 0
                batch.append(line)
                size_bytes += line.size_bytes
            if batch:
                self._send(client, batch)

    def _send(self, client: BlockingClient, batch: list[LabelLine]) -> None:
        for line, result in zip(batch, self._answers(client, batch), strict=True):
            self._became[result.status] += 1
            if result.status is not FeedbackStatus.JOINED:
                self._tell(result.status.name.lower().replace("_", " "), line.number, result.reason)
        if time.monotonic() - self._told_s >= PROGRESS_S:
            self._told_s = time.monotonic()
            click.echo(f"duly: {self._became.total():,} labels are sent, up to line {batch[-1].number:,}", err=True)

    def _answers(self, client: BlockingClient, batch: list[LabelLine]) -> list[FeedbackResult]:
        items = [line.feedback for line in batch]
        tries = 1
        while True:
            try:
                return client.feedback(items)
            except DulyError as error:
                passes = isinstance(error, StreamRefused) or (
                    isinstance(error, ServerUnavailable) and error.reason == "FEEDBACK_UNAVAILABLE"
                )
                if not passes or tries >= TRIES_MAX:
                    if not self._became:
                        raise
                    raise NotSent(f"{self.name}: from line {batch[0].number} on no label was sent: {error}") from error
            tries += 1
            time.sleep(TRY_AGAIN_S)

    def _tell(self, kind: str, number: int, reason: str) -> None:
        self._told[kind] += 1
        if self._told[kind] <= TOLD_MAX:
            click.echo(f"duly: {self.name}:{number}: {kind}: {reason}", err=True)
        elif self._told[kind] == TOLD_MAX + 1:
            click.echo(f"duly: what else is {kind} is counted and no longer told", err=True)
