"""What a provider compiles of a graph is compiled when the model is loaded, or taken from what was compiled before.

TensorRT and its kin make an engine of a graph, for one kind of GPU and by one version of all that takes part. It takes
from seconds to many minutes. The server keeps engines (`runtime/engine_store`); a worker is confined and reaches one
empty folder of its own. It says what the engine is to be made of (`Link.ask`), and finds in its folder what was made of
just that before, or nothing and then makes it. What it is at is told all the time (`Link.tell`).

No frame waits for a compiler: providers that compile for shapes are told all shapes beforehand (`shape_profile`), sizes
of batches that were not warmed do not run, and open extents are refused.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from duly.accelerators import FOLDER, TENSORRT, Accelerator, device_of, of_provider
from duly.models.spec import ModelConfig, Provider
from duly.worker.calibration import Table, with_table
from duly.worker.device_facts import device_facts, preload_tensorrt, version_facts
from duly.worker.graph_facts import GraphFacts, NoGraph, graph_facts
from duly.worker.shape_profile import shape_options
from duly.worker.version_files import GraphFile

FREE_BYTES_MIN = 16 << 20
"""A disk with less is full, as far as an engine goes."""
_COMPILED_ALREADY = b"EPContext"
"""The operator of graphs that hold an engine in place of what it was made of."""

_Session = TypeVar("_Session")


class Link(Protocol):
    """The way to the server while a model is loaded."""

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """Asks for the folder of an engine: `files`, the names of what it is made of, and `parts`, what it depends on
        besides; `damaged`, where what was given for it before does not work.

        Returns `folder`, empty where there is none; `there`, whether it holds the engine; `seconds`, how long the
        engine took to make before, 0 where nobody knows.
        """
        ...

    def tell(self, doing: str, builds: bool = False, expected_s: float = 0.0) -> None:
        """Says what is being done. `builds`: a compiler is at work, which takes as long as it takes."""
        ...


class NoLink:
    """There is no server that keeps engines or asks how a load goes."""

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"folder": "", "there": False, "seconds": 0.0}

    def tell(self, doing: str, builds: bool = False, expected_s: float = 0.0) -> None:
        return


class Engines:
    """Those of all variants of a version on one lane."""

    def __init__(self, link: Link, lane: str, onnxruntime: str, threads: int) -> None:
        """`onnxruntime`: its version. `threads`: intra-op threads."""
        self.link = link
        self.notes: list[str] = []
        """What the author of the model should know."""
        self.builds = False
        """Whether anything is compiled in this load."""
        self._device = device_of(lane)
        self._onnxruntime = onnxruntime
        self._threads = threads
        self._answers: dict[tuple[Path, str], dict[str, Any]] = {}
        """What the server has answered, by graph and table."""
        self._written_at_end = False

    def open(
        self,
        asked: Sequence[Provider],
        file: GraphFile,
        table: Table | None,
        config: ModelConfig,
        open_session: Callable[[Sequence[Provider]], _Session],
    ) -> _Session:
        """Opens a session on these providers, with what they are to know of engines, shapes and ranges.

        Raises what `open_session` raises, ProviderError where the graph has open extents, and LoadError where the table
        does not fit.
        """
        rows = [of_provider(provider.name) for provider in asked]
        if any(provider.name == TENSORRT for provider in asked):
            preload_tensorrt()
        if table is not None or any(row is not None and row.by_shape for row in rows):
            try:
                facts = graph_facts(file.data)
            except NoGraph:
                return open_session(asked)  # which says what is wrong with the file
            asked = with_table(asked, rows, table, facts.tensors)
            if _COMPILED_ALREADY not in file.data:
                asked = _with_shapes(asked, rows, facts, config)
        first = next((row for row in rows if row is not None and row.cache_options), None)
        if first is None or _COMPILED_ALREADY in file.data or _keeps_own(asked, rows):
            return open_session(asked)
        return self._open_with_engine(asked, rows, first, file, table, config, open_session)

    def warms(self, name: str, size: int, nth: int, sizes: int) -> None:
        """Tells that a size of batches is warmed. `name`: the graph's."""
        doing = f"warms {name} with batches of {size}" + (f", size {nth} of {sizes}" if sizes > 1 else "")
        self.link.tell(doing, self.builds)

    def warmed(self) -> bool:
        """Notes that all sizes have run. Returns whether sessions must end, and be opened again, for their engines to
        be written.
        """
        self.builds = False
        again, self._written_at_end = self._written_at_end, False
        self.link.tell("opens again what was compiled" if again else "")
        return again

    def _open_with_engine(
        self,
        asked: Sequence[Provider],
        rows: Sequence[Accelerator | None],
        first: Accelerator,
        file: GraphFile,
        table: Table | None,
        config: ModelConfig,
        open_session: Callable[[Sequence[Provider]], _Session],
    ) -> _Session:
        place = file.path, table.name if table is not None else ""
        again = place in self._answers  # it was written when the first session on it ended
        question = {
            "files": [*file.names, *([table.name] if table is not None else [])],
            "parts": {
                "providers": [_of_key(provider, row, config) for provider, row in zip(asked, rows, strict=True)],
                "device": device_facts(first, self._device),
                "versions": version_facts(first, self._onnxruntime),
                "batch_sizes": list(config.batch_sizes or ()),
                "threads": self._threads,
            },
        }
        if not again:
            self.link.tell(f"looks for what {first.provider} has compiled of {file.path.name}")
            self._answers[place] = self.link.ask(question)
        answer = self._answers[place]
        there = again or answer["there"]
        self._tell(first, file, answer, there)
        try:
            session = open_session(_with_folder(asked, rows, answer["folder"]))
        except Exception:
            if there and not again:  # made by what claims to be the same, and yet of no use
                answer = self._answers[place] = self.link.ask(question | {"damaged": True})
                there = False
                self._tell(first, file, answer, there)
                session = open_session(_with_folder(asked, rows, answer["folder"]))
            elif answer["folder"] and _is_full(Path(answer["folder"])):
                self.notes.append(
                    f"{file.path.name}: the disk of engine_cache is full, so that {first.provider} compiles it at "
                    "every load"
                )
                session = open_session(asked)
            else:
                raise
        self._written_at_end |= first.cache_ends and bool(answer["folder"]) and not there
        return session

    def _tell(self, row: Accelerator, file: GraphFile, answer: Mapping[str, Any], there: bool) -> None:
        if there:
            self.link.tell(f"opens what {row.provider} has compiled of {file.path.name}", self.builds)
            return
        self.builds = True
        self.link.tell(f"{row.provider} compiles {file.path.name}", True, float(answer["seconds"]))


def _with_shapes(
    asked: Sequence[Provider], rows: Sequence[Accelerator | None], facts: GraphFacts, config: ModelConfig
) -> tuple[Provider, ...]:
    return tuple(
        provider
        if row is None
        else _with(provider, {**shape_options(row, facts, config, provider.options), **provider.options})
        for provider, row in zip(asked, rows, strict=True)
    )


def _with_folder(asked: Sequence[Provider], rows: Sequence[Accelerator | None], folder: str) -> tuple[Provider, ...]:
    if not folder:
        return tuple(asked)
    return tuple(
        provider
        if row is None
        else _with(provider, {**provider.options, **{k: v.replace(FOLDER, folder) for k, v in row.cache_options}})
        for provider, row in zip(asked, rows, strict=True)
    )


def _with(provider: Provider, options: Mapping[str, str | int | float | bool]) -> Provider:
    return provider.model_copy(update={"options": dict(options)})


def _keeps_own(asked: Sequence[Provider], rows: Sequence[Accelerator | None]) -> bool:
    """Whether model.toml says itself where engines are kept, in a folder of `cache_folders`."""
    return any(
        row is not None and not provider.options.keys().isdisjoint(key for key, _ in row.cache_options)
        for provider, row in zip(asked, rows, strict=True)
    )


def _of_key(provider: Provider, row: Accelerator | None, config: ModelConfig) -> list[Any]:
    """What of a provider an engine depends on: not which of several devices it is, nor where a table lies, nor how much
    memory the server leaves it, which is another number at every load.
    """
    left_out = {row.device_option, *(key for key, _ in row.int8_options)} if row is not None else set()
    if row is not None and not any(row.memory_option in stated.options for stated in config.providers):
        left_out.add(row.memory_option)
    options = {key: value for key, value in provider.options.items() if key not in left_out}
    return [provider.name, dict(sorted(options.items()))]


def _is_full(folder: Path) -> bool:
    try:
        state = os.statvfs(folder)
    except OSError:
        return False
    return state.f_bavail * state.f_frsize < FREE_BYTES_MIN
