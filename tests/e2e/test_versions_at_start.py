"""Which versions of a model a server loads when it starts."""

from pathlib import Path

from duly.app import App
from duly.runtime.catalogue import VersionState
from tests import graphs
from tests.e2e.serving import serving


def put(root: Path, toml: str, versions: int = 3) -> Path:
    for version in range(1, versions + 1):
        graphs.save(root, "m", graphs.scaling(factor=version), f"batch_sizes = [1]\n{toml}", version=version)
    return root


def loaded(app: App) -> list[str]:
    return [each.version.version for each in app.catalogue.versions("m") if each.state is VersionState.READY]


def active(app: App) -> str:
    found = app.catalogue.active("m")
    assert found is not None
    return found.version.version


async def test_the_newest_one_alone_unless_the_settings_say_more(tmp_path: Path) -> None:
    for number, (toml, expected) in enumerate(
        [
            ("", ["3"]),
            ("[versions]\nloaded = 2\n", ["3", "2"]),
            ("[versions]\nloaded = 0\n", ["3", "2", "1"]),
            ("[versions]\nloaded = 9\nonly = [1, 2, 7]\n", ["2", "1"]),
        ]
    ):
        async with serving(put(tmp_path / str(number), toml)) as app:
            assert (loaded(app), active(app)) == (expected, expected[0])


async def test_no_more_than_versions_max(tmp_path: Path) -> None:
    async with serving(put(tmp_path, "[versions]\nloaded = 0\n", versions=4), versions_max=2) as app:
        assert (loaded(app), active(app)) == (["4", "3"], "4")


async def test_an_older_version_serves_where_the_newest_is_broken(tmp_path: Path) -> None:
    root = put(tmp_path, "[versions]\nloaded = 2\n")
    (root / "m" / "3" / "model.onnx").write_bytes(b"no graph")
    async with serving(root) as app:
        assert (loaded(app), active(app)) == (["2"], "2")
        newest = app.catalogue.get("m", "3")
        assert newest is not None
        assert newest.state is VersionState.FAILED
