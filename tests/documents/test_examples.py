"""The examples of the pages work as they stand there: Python runs, TOML is accepted, commands are understood.

What differs from the reader's own run is the server's port, and the detector, which is a stand-in.
"""

import contextlib
import json
import re
import shlex
import subprocess
import tomllib
from itertools import islice
from pathlib import Path

import click
import numpy as np
import pytest

import duly.cli
import duly_gateways.egodriver.command
import duly_gateways.openpi.command
import duly_gateways.zenoh.command
import duly_load.cli.main
import duly_sim.cli.main
from duly.access.policy import read_policy
from duly.models.repository import Repository
from duly.models.toml_text import toml_text
from duly.models.triton.config_pbtxt import settings_of
from duly_client import BlockingClient, Status
from tests import graphs
from tests.documents.conftest import LOCAL, run
from tests.documents.pages import ROOT, Piece, blocks, inline_code

BEFORE = {
    "docs/design.md": "from duly.core.scheduler import Scheduler\n"
    "from duly.core.events import TimerFired\n"
    "scheduler, now_ns, event = Scheduler(), 0, TimerFired()\n",
    "docs/chunks.md": "import numpy\n"
    "class robot:\n"
    "    do = staticmethod(lambda action: print('ON_TIME', action, flush=True))\n"
    "def observation():\n"
    "    return numpy.zeros((1, 1), numpy.float32)\n",
    "docs/sampling.md": "from pathlib import Path\n"
    "from duly.sampling.files import write\n"
    "from tests.sampling.made import sample\n"
    "Path('samples/yolo/labelled').mkdir(parents=True, exist_ok=True)\n"
    "write(Path('samples/yolo/labelled/000000000001.npz'), [sample(1)], segment=True)\n",
}
"""What the text around an example supposes."""
FOR = {
    "SCENARIO": "load_tests/scenarios/rig.toml",
    "TARGET": "duly",
    "A": "duly",
    "B": "floor",
    "FILE": "picture.jpg",
    "LOG": "picture.jpg",
}
"""Something that the reader might put in the place of a word in capitals."""
ELSEWHERE = {"docs/openpi.md", "docs/zenoh.md", "docs/egodriver.md", "docs/kserve.md"}
"""Pages whose examples are of the other side's software, or of a gateway's settings: tests/peers and tests/gateways."""
RUN = ("duly models", "duly-sim run")
"""Commands of the examples that are quick, and are run, not only understood."""
SLOW = ("duly models optimize", "duly models guards", "duly models calibrate")
"""And of these some that are not."""
POLICY = "[[principal]]"
"""What tells a policy file from a model.toml."""
NOT_OURS = ("model_signing", "openssl", "pre-commit", "pip", "npm", "mvn", "python3", "build/robot/bin/duly-ros2")
COMMANDS: dict[str, click.Command] = {
    "duly": duly.cli.cli,
    "duly-load": duly_load.cli.main.cli,
    "duly-sim": duly_sim.cli.main.cli,
    "duly-openpi": duly_gateways.openpi.command.main,
    "duly-zenoh": duly_gateways.zenoh.command.main,
    "duly-egodriver": duly_gateways.egodriver.command.main,
}
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def place(piece: object) -> str:
    return str(piece)


# ---- Python ----


@pytest.mark.parametrize("block", [block for block in blocks("python") if block.page not in ELSEWHERE], ids=place)
def test_python_runs(block: Piece, folder: Path, address: str) -> None:
    script = folder / "example.py"
    text = block.text.replace("127.0.0.1:8500", address).replace("local:cameras", f"local:{folder}/{LOCAL}")
    script.write_text(BEFORE.get(block.page, "") + text)
    process = run(folder, "python", script.name)
    assert process.stdout is not None
    try:
        lines = list(islice(process.stdout, 2))  # some go on for as long as they are let
        if len(lines) < 2:
            errors = process.stderr.read() if process.stderr is not None else ""
            assert process.wait() == 0, errors
    finally:
        process.kill()
        process.communicate()
    if "print(" in block.text:
        assert lines
    if "Client(" in block.text:
        assert {line.split()[0] for line in lines} <= {"ON_TIME", "LATE"} | set(Status.__members__)


# ---- TOML ----


@pytest.mark.parametrize("block", [block for block in blocks("toml") if POLICY in block.text], ids=place)
def test_toml_is_a_policy(block: Piece, tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(block.text, "utf-8")
    assert read_policy(file).principal


MODELS = [block for block in blocks("toml") if POLICY not in block.text and block.page not in ELSEWHERE]


@pytest.mark.parametrize("block", MODELS, ids=place)
def test_toml_is_a_model_toml(block: Piece, tmp_path: Path) -> None:
    variants = tomllib.loads(block.text).get("variant", [{"file": "model.onnx"}])
    for variant in variants:
        graphs.save(tmp_path, "model", graphs.doubling(), block.text, file=variant["file"])
        for table in filter(None, [variant.get("int8_calibration")]):
            (tmp_path / "model" / "1" / table).touch()
    versions, problems = Repository(tmp_path).scan()
    assert not problems
    assert len(versions[0].config.variants) == len(variants)


def test_config_pbtxt_is_the_model_toml_that_stands_below_it() -> None:
    (pbtxt,) = blocks("pbtxt")
    toml = next(each for each in blocks("toml") if each.page == pbtxt.page and each.line > pbtxt.line)
    settings = settings_of(pbtxt.text, "tracker")
    assert (toml_text(settings.config), settings.notes) == (toml.text, ())


# ---- commands ----


def understand(words: list[str]) -> None:
    """Raises click.ClickException where the command has no such option, or would not take the value."""
    command: click.Command = COMMANDS[words[0]]
    name, rest = words[0], [FOR.get(word, word) for word in words[1:]]
    while True:
        try:
            context = command.make_context(name, rest.copy(), resilient_parsing=isinstance(command, click.Group))
        except click.exceptions.Exit:  # it has said its --help
            return
        command = context.command
        if not isinstance(command, click.Group):
            return
        name, rest = rest[0], rest[1:]
        found = command.get_command(context, name)
        assert found is not None, f"{words[0]} has no command {name}"
        command = found


def check(line: str) -> None:
    """A line as one would type it. Raises where it would not be understood."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        del words[0]
    if not words or words[0] in NOT_OURS:
        check_extras(line)
        return
    for path in re.findall(r"\b(?:tests|load_tests|docs|protos|server|clients)/[\w./-]*", line):
        assert (ROOT / path).exists(), f"there is no {path}"
    words[0] = words[0].removeprefix(".venv/bin/")
    if words[0] == "make":
        check_make(words)
    elif words[0] == "python":
        assert words[1].endswith(".py"), "scripts of the repository are run, which are there"
    else:
        assert words[0] in COMMANDS, f"who checks `{words[0]}`?"
        understand(words)


def check_make(words: list[str]) -> None:
    """The target and the variables are there, and the commands that it would run are understood."""
    for word in words[1:]:
        variable, given, _ = word.partition("=")
        if given:
            assert f"$({variable})" in MAKEFILE, f"the Makefile has no variable {variable}"
        else:
            assert re.search(rf"^{word}:", MAKEFILE, flags=re.MULTILINE), f"the Makefile has no target {word}"
    ready = ["--old-file=.venv/.ready-cpu", "--old-file=.venv/.ready-gpu"]
    dry = subprocess.run(["make", "--dry-run", *ready, *words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert dry.returncode == 0, dry.stderr
    for line in dry.stdout.replace("\\\n", " ").splitlines():
        if line.startswith((".venv/bin/duly ", ".venv/bin/duly-load ", ".venv/bin/duly-sim ")):
            check(line)


def check_extras(line: str) -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for extras in re.findall(r"(?:duly|\.)\[([a-z,-]+)\]", line):
        assert set(extras.split(",")) <= known.keys(), f"pyproject.toml has no extra {extras}"


def lines() -> list[Piece]:
    return [
        Piece(block.page, block.line + number, line)
        for block in blocks("sh")
        for number, line in enumerate(block.text.splitlines())
    ]


@pytest.mark.parametrize("line", lines(), ids=place)
def test_commands_of_the_blocks_are_understood(line: Piece, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    check(line.text)


def mentioned() -> list[Piece]:
    return [
        piece
        for piece in inline_code()
        if re.match(r"(?:[A-Z_]+=\S+ )?(?:make|duly|duly-load|duly-sim|pip) ", piece.text)
    ]


@pytest.mark.parametrize("piece", mentioned(), ids=place)
def test_commands_of_the_text_are_understood(piece: Piece, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    what_it_needs = (click.MissingParameter, click.exceptions.NoArgsIsHelpError, click.BadOptionUsage)
    with contextlib.suppress(*what_it_needs):  # a text may leave it out
        check(piece.text)


@pytest.mark.parametrize(
    "line",
    [
        line
        for line in lines()
        if line.text.removeprefix(".venv/bin/").startswith(RUN) and not line.text.startswith(SLOW)
    ],
    ids=place,
)
def test_quick_commands_run(line: Piece, folder: Path) -> None:
    words = shlex.split(line.text.removeprefix(".venv/bin/"), comments=True)
    process = run(folder, *words)
    out, errors = process.communicate(timeout=100)
    assert process.returncode == 0, out + errors


def test_a_file_of_labels_is_sent_as_the_page_says(folder: Path, address: str) -> None:
    (line,) = [line.text for line in lines() if line.text.startswith(".venv/bin/duly feedback ")]
    (example,) = [block.text.splitlines() for block in blocks("csv")]
    with BlockingClient(address) as client, client.stream("policy", budget_ms=60_000) as stream:
        numbers = [stream.send(np.zeros((1, 1), np.float32)) for _ in example[1:]]
        outcomes = [next(stream) for _ in numbers]
        keys = [stream.key_of(number) for number in numbers]
    rows = [example[0]]
    for text, key, number, outcome in zip(example[1:], keys, numbers, outcomes, strict=True):
        right = json.dumps(outcome.outputs["actions"].tolist())
        row = text.replace("[[0.5]]", right)  # as many actions as the model gives
        rows.append(re.sub(r"^[^,]*,[0-9]+", f"{key},{number}", row))
    (folder / "labels.csv").write_text("\n".join(rows))
    words = shlex.split(line.removeprefix(".venv/bin/"), comments=True)
    process = run(folder, *words, "--server", address)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "2 lines: 2 joined\n"), errors
