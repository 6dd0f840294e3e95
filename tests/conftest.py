"""What holds for every test: the developer's own settings stay out, a failing example is found again, and what is
compiled is of the source. Beside that, what tests of several folders share."""

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

import duly.rpc  # noqa: F401 (it sets what gRPC reads when it is first imported, so that tests run with it as servers do)
from duly import compiled
from tests import lane

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read once, when onnxruntime is first imported
os.environ["no_grpc_proxy"] = "127.0.0.1,localhost,::1"  # noqa: SIM112 (a test's own channels ask no proxy)
# A shell has what runs in its background ignore Ctrl-C, and what tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
for variable in [name for name in os.environ if name.startswith("DULY_") and name != "DULY_CACHE_DIR"]:
    del os.environ[variable]

settings.register_profile("duly", deadline=None, derandomize=True)
settings.load_profile("duly")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--compiled", action="store_true", help="refuse to run unless all is compiled that may be")
    parser.addoption("--lane", default=lane.CPU_LANE, help="load models on this lane, such as openvino:CPU")


def pytest_configure(config: pytest.Config) -> None:
    lane.set_up(config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    lane.pass_over(items)


def pytest_sessionstart(session: pytest.Session) -> None:
    sources = compiled.sources()
    made = [file.stat().st_mtime for source in sources for file in source.parent.glob(f"{source.stem}.*.so")]
    if made and min(made) < max(source.stat().st_mtime for source in sources):
        pytest.exit("what is compiled is older than its source: `make core`, or `make core-clean`", 4)
    if session.config.getoption("compiled") and (told := compiled.told()) != "yes":
        pytest.exit(f"not all is compiled that may be; compiled: {told}", 4)


@pytest.fixture(scope="session", autouse=True)
def engines_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Servers keep what is compiled where systemd says, and not in the developer's own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CACHE_DIRECTORY", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """Commands that run in this process set the level of the log, and would silence the tests after them."""
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def memory_as_it_was() -> Iterator[None]:
    """To load a model limits the memory of its process, and would take that of the tests after it."""
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    yield
    resource.setrlimit(resource.RLIMIT_DATA, limits)


@pytest.fixture
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A scenario file with the text that the test's module calls SMALL."""
    file = tmp_path / "small.toml"
    file.write_text(request.module.SMALL, encoding="utf-8")
    return file
