"""The asset cache, against packages made on the fly: no network, and the real pip where it matters what pip does."""

import hashlib
import io
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from duly.demo import assets
from duly.demo.asset_list import Sdist
from duly.demo.assets import Asset, AssetError, fetch

PACKAGE = "duly-sample==1.2.3"
CAT = "duly_sample/data/cat.bin"
NAMES = "duly_sample/data/names.txt"
MEMBERS = {CAT: b"meow" * 1000, NAMES: b"cat\n"}


def write_wheel(folder: Path, members: dict[str, bytes]) -> Path:
    """Write a pure wheel of ``PACKAGE`` with ``members``, as small as pip accepts it."""
    info = "duly_sample-1.2.3.dist-info"
    wheel = folder / "duly_sample-1.2.3-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: duly-sample\nVersion: 1.2.3\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def describe(member: str, *, package: str = PACKAGE, sha256: str | None = None) -> Asset:
    digest = sha256 or hashlib.sha256(MEMBERS[member]).hexdigest()
    return Asset(name=Path(member).name, package=package, member=member, sha256=digest, licence="MIT")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own, empty cache; :data:`assets.ASSETS` has ``cat.bin`` and ``names.txt`` only."""
    monkeypatch.setenv("DULY_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(assets, "ASSETS", {asset.name: asset for asset in map(describe, MEMBERS)})
    return tmp_path / "cache/assets"


@pytest.fixture
def wheel(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good wheel, in the only place where the real pip looks."""
    folder = cache.parents[1] / "links"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return write_wheel(folder, MEMBERS)


@pytest.fixture
def downloads(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every package asked for, in order; a copy of the wheel stands in for pip, which takes a second."""
    asked: list[str] = []

    def copy(package: str, folder: Path, report: Callable[[int, int], None]) -> Path:
        asked.append(package)
        report(wheel.stat().st_size, wheel.stat().st_size)
        return Path(shutil.copy(wheel, folder))

    monkeypatch.setattr(assets, "_download", copy)
    return asked


def test_pip_fetches_once_for_all_members_and_all_later_calls(
    wheel: Path, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert fetch(["names.txt"], progress=False) == {"names.txt": cache / "names.txt"}
    assert capfd.readouterr() == ("", "")
    wheel.unlink()
    paths = fetch()
    assert capfd.readouterr() == ("", "")  # nothing to do, nothing shown
    assert paths == {"cat.bin": cache / "cat.bin", "names.txt": cache / "names.txt"}
    assert [path.read_bytes() for path in paths.values()] == [MEMBERS[CAT], MEMBERS[NAMES]]
    assert sorted(path.name for path in cache.iterdir()) == [".lock", "cat.bin", "names.txt"]


def test_wrong_hash_is_refused_with_both_hashes(wheel: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "ASSETS", {"cat.bin": describe(CAT, sha256="0" * 64)})
    with pytest.raises(AssetError) as caught:
        fetch(progress=False)
    got = hashlib.sha256(MEMBERS[CAT]).hexdigest()
    assert f"{PACKAGE}: sha256 of {CAT} differs: expected {'0' * 64}, got {got}." in str(caught.value)
    assert wheel.exists()
    assert [path.name for path in cache.iterdir()] == [".lock"]


@pytest.mark.usefixtures("wheel")
def test_failure_of_pip_is_told_with_its_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "ASSETS", {"cat.bin": describe(CAT, package="duly-sample==9.9.9")})
    with pytest.raises(AssetError, match=r"^duly-sample==9\.9\.9: pip failed: ERROR: No matching distribution found"):
        fetch(progress=False)


def test_source_distribution_is_never_built(wheel: Path) -> None:
    # pip would run the setup.py of a source distribution to learn its name.
    wheel.rename(wheel.with_name("duly_sample-1.2.3.zip"))
    with pytest.raises(AssetError, match="No matching distribution found"):
        fetch(progress=False)


# ---- source distributions ----

SDIST_NAME = "duly_sample-1.2.3"
SDIST_CAT = f"{SDIST_NAME}/{CAT}"


def write_sdist(folder: Path, ran: Path, backend: str) -> Path:
    """Write a source distribution of ``PACKAGE`` whose build backend and `setup.py` leave the file ``ran`` behind."""
    touch = f"import pathlib; pathlib.Path({str(ran)!r}).touch()\n".encode()
    members = {CAT: MEMBERS[CAT], "setup.py": touch, "hatchling/build.py": touch}
    if backend != "setuptools.build_meta":  # the backend of those that name none
        members["pyproject.toml"] = f'[build-system]\nrequires = ["x"]\nbuild-backend = "{backend}"\n'.encode()
    members["PKG-INFO"] = b"Metadata-Version: 2.1\nName: duly-sample\nVersion: 1.2.3\n"
    sdist = folder / f"{SDIST_NAME}.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(f"{SDIST_NAME}/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        link = tarfile.TarInfo(f"{SDIST_NAME}/link.bin")
        link.type, link.linkname = tarfile.SYMTYPE, CAT
        archive.addfile(link)
    return sdist


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """A file that is there if code of the source distribution ran."""
    return tmp_path / "ran"


@pytest.fixture(params=["hatchling.build", "setuptools.build_meta"])
def sdist(request: pytest.FixtureRequest, wheel: Path, ran: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good source distribution beside the wheel, and pinned; the wheel would be pip's first choice."""
    path = write_sdist(wheel.parent, ran, request.param)
    pinned = Sdist(hashlib.sha256(path.read_bytes()).hexdigest(), request.param)
    monkeypatch.setattr(assets, "SDISTS", {PACKAGE: pinned})
    digest = hashlib.sha256(MEMBERS[CAT]).hexdigest()
    asset = Asset(name="cat.bin", package=PACKAGE, member=SDIST_CAT, sha256=digest, licence="MIT")
    monkeypatch.setattr(assets, "ASSETS", {"cat.bin": asset})
    return path


@pytest.mark.usefixtures("sdist")
def test_a_source_distribution_is_read_and_nothing_of_it_runs(ran: Path, cache: Path) -> None:
    assert fetch(progress=False)["cat.bin"].read_bytes() == MEMBERS[CAT]
    assert not ran.exists()
    assert sorted(path.name for path in cache.iterdir()) == [".lock", "cat.bin"]


def test_a_source_distribution_other_than_the_pinned_one_is_refused_before_it_is_opened(
    sdist: Path, ran: Path, cache: Path
) -> None:
    with tarfile.open(sdist, "w:gz") as archive:
        project = b'[build-system]\nrequires = []\nbuild-backend = "evil"\nbackend-path = ["."]\n'
        for name, data in (("pyproject.toml", project), ("evil.py", f"open({str(ran)!r}, 'w')".encode())):
            entry = tarfile.TarInfo(f"{SDIST_NAME}/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    with pytest.raises(AssetError, match=r"^duly-sample==1\.2\.3: pip failed: .*[0-9a-f]{64}"):
        fetch(progress=False)
    assert not ran.exists()
    assert [path.name for path in cache.iterdir()] == [".lock"]


@pytest.mark.usefixtures("sdist")
def test_a_link_in_a_source_distribution_is_followed_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    asset = Asset("cat.bin", PACKAGE, f"{SDIST_NAME}/link.bin", "0" * 64, "MIT")
    monkeypatch.setattr(assets, "ASSETS", {"cat.bin": asset})
    with pytest.raises(AssetError, match=r"has no member duly_sample-1\.2\.3/link\.bin"):
        fetch(progress=False)


def test_damaged_file_is_fetched_anew(downloads: list[str]) -> None:
    path = fetch(progress=False)["cat.bin"]
    path.write_bytes(b"moo")
    fetch(["names.txt"], progress=False)  # whole; nobody asks for the damaged one
    assert downloads == [PACKAGE]
    assert fetch(progress=False)["cat.bin"].read_bytes() == MEMBERS[CAT]
    assert downloads == [PACKAGE, PACKAGE]


def test_what_was_complete_before_an_error_is_kept(wheel: Path, downloads: list[str]) -> None:
    write_wheel(wheel.parent, {CAT: MEMBERS[CAT]})
    with pytest.raises(AssetError, match=r"duly-sample==1\.2\.3: .*\.whl has no member duly_sample/data/names\.txt"):
        fetch(progress=False)
    assert fetch(["cat.bin"], progress=False)["cat.bin"].read_bytes() == MEMBERS[CAT]
    assert downloads == [PACKAGE]


@pytest.mark.usefixtures("downloads")
def test_damaged_wheel_is_named(wheel: Path, cache: Path) -> None:
    # Stored, not deflated, so it is the checksum that gives it away.
    wheel.write_bytes(wheel.read_bytes().replace(b"meow", b"moow"))
    with pytest.raises(AssetError, match=r"duly-sample==1\.2\.3: .*\.whl is damaged"):
        fetch(progress=False)
    assert [path.name for path in cache.iterdir()] == [".lock"]


@pytest.mark.usefixtures("downloads")
def test_a_member_that_unpacks_to_far_too_much_is_cut_off(
    wheel: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "MEMBER_BYTES_MAX", len(MEMBERS[CAT]) - 1)
    with pytest.raises(AssetError, match=r"duly-sample==1\.2\.3: .*cat\.bin has more than 3,999 bytes"):
        fetch(progress=False)
    assert [path.name for path in cache.iterdir()] == [".lock"]


@pytest.mark.usefixtures("downloads")
def test_debris_of_a_killed_fetch_does_no_harm(cache: Path) -> None:
    debris = cache / ".partial-killed"
    debris.mkdir(parents=True)
    (debris / "another-1.0-py3-none-any.whl").write_bytes(b"half a whe")
    assert fetch(progress=False)["cat.bin"].read_bytes() == MEMBERS[CAT]
    assert not debris.exists()


def test_concurrent_fetches_download_once(cache: Path, downloads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # flock excludes threads like processes here, since each call opens the lock file itself.
    started, everyone = 0, threading.Condition()
    download = assets._download

    def download_when_all_have_started(package: str, folder: Path, report: Callable[[int, int], None]) -> Path:
        with everyone:
            assert everyone.wait_for(lambda: started == 3, timeout=30)
        return download(package, folder, report)

    monkeypatch.setattr(assets, "_download", download_when_all_have_started)
    results: list[dict[str, Path]] = []

    def fetch_beside_others() -> None:
        nonlocal started
        with everyone:
            started += 1
            everyone.notify_all()
        results.append(fetch(progress=False))

    threads = [threading.Thread(target=fetch_beside_others) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [{"cat.bin": cache / "cat.bin", "names.txt": cache / "names.txt"}] * 3
    assert downloads == [PACKAGE]


@pytest.mark.usefixtures("downloads")
def test_one_bar_ends_full(capsys: pytest.CaptureFixture[str]) -> None:
    fetch()
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("assets ")
    done, total = line.split("/")[0].split()[-1], line.split("/")[1].split()[0]
    assert done == total


FAKE_PIP = """
import pathlib, shutil, sys
assert sys.argv[1] == "download"
assert sys.argv[sys.argv.index("--progress-bar") + 1] == {bar!r}
{prints}
shutil.copy({wheel!r}, sys.argv[sys.argv.index("--dest") + 1])
"""


@pytest.mark.parametrize(
    ("version", "bar", "lines", "reported"),
    [
        ("24.1", "raw", ["Progress 0 of 9", "noise", "Progress 4 of 9", "Progress 9 of 9"], [(0, 9), (4, 9), (9, 9)]),
        ("26.3.dev0", "raw", ["Progress 512 of 0"], [(512, 0)]),
        ("24.0", "off", ["Collecting duly-sample"], []),
    ],
)
def test_progress_is_read_from_pips_that_tell_it(
    *,
    wheel: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    bar: str,
    lines: list[str],
    reported: list[tuple[int, int]],
) -> None:
    pip = tmp_path / "fake/pip"
    pip.mkdir(parents=True)
    (pip / "__init__.py").touch()
    prints = "\n".join(f"print({line!r})" for line in lines)
    (pip / "__main__.py").write_text(FAKE_PIP.format(bar=bar, prints=prints, wheel=str(wheel)))
    monkeypatch.setenv("PYTHONPATH", str(pip.parent))
    monkeypatch.setattr("importlib.metadata.version", {"pip": version}.__getitem__)
    folder = tmp_path / "target"
    folder.mkdir()
    seen: list[tuple[int, int]] = []
    assert assets._download(PACKAGE, folder, lambda *numbers: seen.append(numbers)) == folder / wheel.name
    assert seen == reported


def test_unknown_name_is_the_callers_error() -> None:
    with pytest.raises(KeyError, match="unicorn"):
        fetch(["unicorn.png"])


def test_table_is_well_formed() -> None:
    for name, asset in assets.ASSETS.items():
        assert name == asset.name == Path(asset.name).name
        assert len(bytes.fromhex(asset.sha256)) == 32
        assert asset.package.count("==") == 1
        assert asset.licence


def test_source_distributions_are_of_packages_that_are_fetched() -> None:
    packages = {asset.package for asset in assets.ASSETS.values()}
    for package, sdist in assets.SDISTS.items():
        assert package in packages
        assert len(bytes.fromhex(sdist.sha256)) == 32


def test_real_asset_comes_whole() -> None:
    names = fetch(["coco.names"], progress=False)["coco.names"].read_text().splitlines()
    assert (len(names), names[0], names[15]) == (80, "person", "cat")
