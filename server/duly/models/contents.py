"""What the files of a version hold, and in words what has changed since it was loaded.

A version never changes once it is loaded. It is what its first worker has read: a file that holds other bytes later,
or settings that say something else, belong to another version.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duly.models.digests import Contents, FileDigest, digest_file
from duly.models.folders import VERSION, subfolders
from duly.models.repository import ModelVersion
from duly.models.spec import ModelConfig, Signature, TensorSpec
from duly.models.wording import first_few

CHANGES_NAMED_MAX = 5
"""So many changes of a version are named, and the others are counted."""
VALUE_CHARS_MAX = 40
"""Values of settings and labels are named up to this length."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a version is, as its first worker has loaded it. Every further one must find the same."""

    contents: Contents
    signature: Signature


def digest_files(version: ModelVersion, names: Iterable[str]) -> dict[str, FileDigest]:
    """Reads these files of the version as they lie there now. It takes about a second for each GB, and blocks."""
    return {name: digest_file(_path(version, name)) for name in names}


def changed_files(before: Contents, now: Contents) -> list[str]:
    """Says which files hold something else than `before`. Files that only one side has are not looked at."""
    return [
        _file_change(name, before[name], digest) for name, digest in now.items() if before.get(name, digest) != digest
    ]


def changed_settings(before: ModelVersion, now: ModelVersion) -> list[str]:
    """Says which settings and which labels differ."""
    place = f"{before.name}/model.toml"
    fields = ModelConfig.model_fields
    old, new = (each.config.model_dump(mode="json") for each in (before, now))
    changes = [
        (before if (fields[key].alias or key) in before.own else now).told(
            f"{place}: {fields[key].alias or key} {_value_change(old[key], new[key])}"
        )
        for key in old
        if old[key] != new[key]
    ]
    if before.labels != now.labels and before.config.labels == now.config.labels:
        changes.append(f"{before.name}/{now.config.labels}: {_label_change(before.labels, now.labels)}")
    return changes


def changed_signature(before: Signature, now: Signature) -> list[str]:
    """Says in what the inputs and outputs differ; batch sizes may differ between lanes."""
    changes = []
    for kind, old, new in (("input", before.inputs, now.inputs), ("output", before.outputs, now.outputs)):
        if [spec.name for spec in old] != [spec.name for spec in new]:
            changes.append(f"its {kind}s are {_names(new)}, they were {_names(old)}")
            continue
        changes += [
            f"its {kind} '{spec.name}' is {spec.said()}, it was {was.said()}"
            for was, spec in zip(old, new, strict=True)
            if was != spec
        ]
    if before.stateful != now.stateful:
        changes.append(f"it {'keeps' if now.stateful else 'no longer keeps'} state of its streams")
    elif before.states != now.states:
        changes.append("it keeps other state of its streams")
    return changes


def in_words(changes: list[str]) -> str:
    """Puts the first of the changes into one sentence and counts the rest."""
    return first_few(changes, CHANGES_NAMED_MAX, "; ", "; and ")


def how_to_publish(version: ModelVersion) -> str:
    """Says how files become a new version, which is the one after all that are there."""
    there = [int(path.name) for path in subfolders(version.model_folder) if VERSION.fullmatch(path.name)]
    return (
        "a version never changes once it is loaded: put the new files into "
        f"{version.name}/{max([int(version.version), *there]) + 1}, moved in whole"
    )


def _path(version: ModelVersion, name: str) -> Path:
    inside = f"{version.key}/"
    if name.startswith(inside):
        return version.folder / name.removeprefix(inside)
    return version.model_folder / name.removeprefix(f"{version.name}/")


def _file_change(name: str, before: FileDigest, now: FileDigest) -> str:
    if now.problem:
        return f"{name} {now.problem}"
    if before.size_bytes != now.size_bytes:
        return f"{name} has {now.size_bytes:,} bytes, it had {before.size_bytes:,} when it was loaded"
    return f"{name} has other contents than when it was loaded (SHA-256 {now.sha256[:12]}, was {before.sha256[:12]})"


def _value_change(before: Any, now: Any) -> str:
    old, new = _value(before), _value(now)
    return f"was {old}, is {new}" if max(len(old), len(new)) <= VALUE_CHARS_MAX else "has changed"


def _value(value: Any) -> str:
    if value is None:
        return "not stated"
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def _label_change(before: tuple[str, ...], now: tuple[str, ...]) -> str:
    if len(before) != len(now):
        return f"has {len(now)} labels, had {len(before)}"
    index = next(index for index, (old, new) in enumerate(zip(before, now, strict=True)) if old != new)
    return f"label {index} {_value_change(before[index], now[index])}"


def _names(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(spec.name for spec in specs) or "none"
