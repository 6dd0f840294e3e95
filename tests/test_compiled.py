"""Which modules are compiled: all of those that are named, or none, and `duly version` says which."""

import importlib
import sys
from pathlib import Path

import pytest

from duly import compiled
from tests.test_cli import duly


def test_version_says_whether_it_is_compiled() -> None:
    assert f"compiled {compiled.told()}" in duly("version").stdout.splitlines()


def test_what_is_named_is_there_and_is_imported_as_is_told() -> None:
    ends = set()
    for source in compiled.sources():
        assert source.is_file(), source
        name = ".".join(source.with_suffix("").parts[source.parts.index("server") + 1 :])
        ends.add(Path(importlib.import_module(name).__file__ or "").suffix)
    assert ends == {{"yes": ".so", "no": ".py"}[compiled.told()]}


def test_a_part_is_told_as_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "duly"
    (package / "core").mkdir(parents=True)
    for name in ("__init__", "core/__init__", "core/one", "core/two"):
        (package / f"{name}.py").touch()
    monkeypatch.setattr(compiled, "_HERE", package)
    monkeypatch.setattr(compiled, "MODULES", ("core",))
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name == "duly" or name.startswith("duly.")]:
        monkeypatch.delitem(sys.modules, name)
    assert compiled.told() == "no"
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    for name, told in (("one", "1 of 2 modules"), ("two", "yes")):
        (package / f"core/{name}{suffix}").touch()
        importlib.invalidate_caches()
        assert compiled.told() == told
