"""How large the weights of a version are, as far as the names of its files tell. No graph is read for it."""

from collections.abc import Sequence
from pathlib import Path

from duly.models.spec import Variant

_BESIDE = (".data", "_data", ".bin", ".weights")
"""How exporters end the names of files with external data, after the name of the graph or what comes before its dot."""


def weights_bytes(folder: Path, variants: Sequence[Variant]) -> int:
    """Returns the bytes of the variants' graphs and of the files beside them that are named after them. Files that
    cannot be looked at count nothing.
    """
    return sum(variant_bytes(folder, variant) for variant in variants)


def variant_bytes(folder: Path, variant: Variant) -> int:
    """Returns the same of one variant."""
    graph = folder / variant.file
    named = {f"{name}{end}" for name in (graph.name, graph.stem) for end in _BESIDE} | {graph.name}
    try:
        return sum(file.stat().st_size for file in graph.parent.iterdir() if file.name in named)
    except OSError:
        return 0
