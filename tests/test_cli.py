"""The command as a user meets it: its own process, its exit status, its two outputs."""

import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tests import graphs

SERVER = Path(__file__).parents[1] / "server"
CLIENT = Path(__file__).parents[1] / "clients" / "python"


def python(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(SERVER), str(CLIENT)])
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": path, **environ},
    )


def duly(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "duly.cli", *arguments, **environ)


def duly_without(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As if that module were not installed."""
    code = f"import sys; sys.modules[{module!r}] = None; sys.argv[1:] = {arguments!r}; import duly.cli; duly.cli.main()"
    return python("-c", code)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One model that doubles its input, in two versions, the newer one damaged."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "double", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder = tmp_path / "models" / "double"
    for version in ("1", "2"):
        (folder / version).mkdir(parents=True)
    onnx.save(model, folder / "1" / "model.onnx")
    (folder / "2" / "model.onnx").write_bytes(b"not a graph")
    (folder / "model.toml").write_text("description = 'Twice as much.'\nbatch_sizes = [1]\nwarmup_runs = 1\n")
    return tmp_path / "models"


def test_version_tells_what_is_installed() -> None:
    done = duly("version")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"duly {importlib.metadata.version('duly')}"
    assert f"python {platform.python_version()}" in lines
    assert f"grpcio {importlib.metadata.version('grpcio')}" in lines


def test_version_and_help_import_nothing_but_the_base() -> None:
    for command in ("version", "--help"):
        code = (
            f"import sys; sys.argv[1:] = [{command!r}]\n"
            "import atexit, duly.cli\n"
            "heavy = {'pydantic', 'grpc', 'google', 'numpy', 'structlog', 'onnxruntime', 'cv2', 'rich'}\n"
            "atexit.register(lambda: print(sorted(heavy & set(sys.modules)), file=sys.stderr))\n"
            "duly.cli.main()"
        )
        done = python("-c", code)
        assert (done.returncode, done.stderr) == (0, "[]\n")


def test_help_names_every_command() -> None:
    done = duly("--help")
    assert done.returncode == 0
    for command in ("serve", "models", "stream", "demo", "version"):
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize(
    ("command", "module", "advice"),
    [
        ("serve", "pydantic", "pip install 'duly[cpu]', or 'duly[gpu]' for an NVIDIA GPU"),
        ("models", "pydantic", "pip install 'duly[cpu]', or 'duly[gpu]' for an NVIDIA GPU"),
        ("demo", "rich", "pip install 'duly[cpu,demo]', or 'duly[gpu,demo]' for an NVIDIA GPU"),
    ],
)
def test_a_command_whose_packages_are_missing_says_which(command: str, module: str, advice: str) -> None:
    done = duly_without(module, command)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"duly: {command} needs the module {module}, which is not installed: {advice}\n"


def test_without_a_command_the_help_is_the_error() -> None:
    done = duly()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: duly [OPTIONS] COMMAND")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["srve"], "No such command 'srve'."),
        (["serve", "--modles", "x"], "No such option '--modles'."),
        (["serve", "--streams-max"], "Option '--streams-max' requires an argument."),
        (["serve", "mine"], "mine belongs to no option; the folder of models is given as --models mine"),
        (["models", "list", "/nonexistent"], "Invalid value for 'DIR'"),
    ],
)
def test_a_mistyped_command_is_one_line_and_status_2(arguments: list[str], message: str) -> None:
    done = duly(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"duly: {message}")


def test_wrong_settings_are_all_told_one_line_each(repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "duly.toml"
    file.write_text("stream_max = 3")
    done = duly("serve", "--models", str(repository), "--config", str(file), "--listen", "nowhere", DULY_THREADS="-1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"duly: {file}: stream_max: unknown setting; did you mean streams_max?",
        "duly: --listen: should be HOST:PORT, such as 127.0.0.1:8500 or [::1]:8500, got 'nowhere'",
        "duly: environment DULY_THREADS: should be greater than or equal to 0, got '-1' (see duly serve --help)",
    ]


def test_tracebacks_are_there_for_those_who_ask() -> None:
    done = duly("srve", DULY_DEBUG="1")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):")


def test_serve_help_tells_each_option_with_its_default_and_its_variable() -> None:
    text = " ".join(duly("serve", "--help").stdout.split())
    assert "--streams-max N Streams that may be open at once. [default: 1024; DULY_STREAMS_MAX]" in text
    assert "--transport lan|wan" in text
    assert "--reflection / --no-reflection" in text
    assert "[required; DULY_MODELS]" in text


def test_why_nothing_can_be_served_is_told_once(repository: Path) -> None:
    (repository / "double" / "model.toml").write_text("descripton = 'misspelt'")
    done = duly("serve", "--models", str(repository), "--listen", "127.0.0.1:0")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("descripton") == 1
    assert done.stderr.splitlines()[-2:] == [
        "duly: no model can be served:",
        "duly:   double/model.toml: descripton: there is no such key; did you mean description?",
    ]


@pytest.mark.parametrize("command", [["serve", "--models"], ["models", "check"], ["models", "list"]])
@pytest.mark.parametrize("path", ["double", "double/1", "double/1/model.onnx"])
def test_a_path_too_deep_is_told_the_folder_to_give(repository: Path, command: list[str], path: str) -> None:
    done = duly(*command, str(repository / path), *(["--listen", "127.0.0.1:0"] if command[0] == "serve" else []))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("duly: ")]
    assert "give " in line
    assert f" {repository} (see duly" in line
    assert duly("models", "list", str(repository)).returncode == 0


def test_what_is_passed_over_is_told_and_no_error(repository: Path) -> None:
    for folder in ("lost+found", "docs"):
        (repository / folder).mkdir()
    (repository / "docs" / "README.md").touch()
    (repository / "double" / "2" / "model.onnx").unlink()
    (repository / "double" / "2").rmdir()
    (repository / "double" / "config.pbtxt").touch()
    done = duly("models", "check", str(repository), "--lanes", "cpu:0")
    assert (done.returncode, done.stdout) == (0, "double/1  ok\n")
    assert done.stderr.splitlines() == [
        "duly: docs: holds neither a version nor a model's file, and is passed over",
        "duly: double/config.pbtxt: is not read beside model.toml, which says all of the model's settings",
    ]


def test_an_address_in_use_is_one_line_and_status_1(repository: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = duly("serve", "--models", str(repository), "--listen", address)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"duly: cannot listen on {address}" in done.stderr.splitlines()[-1]


def test_models_list_has_a_line_for_each_version(repository: Path) -> None:
    done = duly("models", "list", str(repository))
    assert (done.returncode, done.stderr) == (0, "")
    newest, older = done.stdout.splitlines()
    assert newest.startswith("double/2  variants: default  budget: 100 ms  class: STANDARD  Twice as much.")
    assert older.startswith("double/1 ")


def test_models_list_tells_what_is_broken_and_goes_on(repository: Path) -> None:
    (repository / "other" / "1").mkdir(parents=True)
    (repository / "other" / "model.toml").write_text("descripton = 'misspelt'")
    done = duly("models", "list", str(repository))
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr.startswith("duly: other/model.toml: descripton: ")


def test_models_list_of_an_empty_folder_says_what_should_be_there(tmp_path: Path) -> None:
    done = duly("models", "list", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"no models in {tmp_path}: it should hold NAME/VERSION/*.onnx\n"


def test_models_show_gives_the_settings_with_their_defaults(repository: Path) -> None:
    done = duly("models", "show", str(repository), "double")
    assert (done.returncode, done.stderr) == (0, "")
    settings = json.loads(done.stdout)
    assert (settings["description"], settings["default_budget_ms"]) == ("Twice as much.", 100)


def test_models_show_tells_the_tensors_of_a_bare_model(repository: Path) -> None:
    done = duly("models", "show", str(repository), "double/1")
    assert (done.returncode, done.stderr) == (0, "")
    shown = json.loads(done.stdout)
    assert shown["graph"] == {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": ["n", 4]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": ["n", 4]}],
    }
    (sent,), (got,) = shown["frame"]["inputs"], shown["frame"]["outputs"]
    assert (sent["name"], sent["datatype"], sent["shape"]) == ("x", "FP32", [4])
    assert (got["name"], got["datatype"], got["shape"]) == ("y", "FP32", [4])
    assert "bytes_max" not in sent, "the limits of a server settle it"
    assert shown["problem"] is None


def test_models_show_tells_the_tensors_of_a_model_that_cannot_be_served(repository: Path) -> None:
    damaged = json.loads(duly("models", "show", str(repository), "double").stdout)
    assert (damaged["graph"], damaged["frame"]) == (None, None)
    assert damaged["problem"].startswith("double/2/model.onnx: is not a whole ONNX file")
    (repository / "double" / "model.toml").write_text("input = [{ name = 'image' }]\nproviders = [{ name = 'None' }]")
    misfit = json.loads(duly("models", "show", str(repository), "double/1").stdout)
    assert misfit["graph"]["inputs"][0]["name"] == "x"
    assert misfit["frame"] is None
    assert misfit["problem"].startswith("double/model.toml: input[0].name: the graph has no input 'image'; it has: x")


def test_models_show_of_an_unknown_model_names_the_likely_one(repository: Path) -> None:
    done = duly("models", "show", str(repository), "duoble")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"duly: no model duoble in {repository}; did you mean double?\n"


def test_models_check_loads_them_and_says_which_work(repository: Path) -> None:
    done = duly("models", "check", str(repository), "--lanes", "cpu:0", "--threads", "1")
    assert done.returncode == 1
    good, damaged = sorted(done.stdout.splitlines())
    assert good == "double/1  ok"
    assert damaged.startswith("double/2  ")
    assert "model.onnx" in damaged


def test_models_check_has_the_settings_of_serve_from_all_their_sources(tmp_path: Path) -> None:
    root = graphs.save(tmp_path / "models", "double", graphs.scaling(width=30), "batch_sizes = [1]\n")
    file = tmp_path / "duly.toml"
    file.write_text("bytes_in_flight_max = 119\n")
    refusal = "raise bytes_in_flight_max (--bytes-in-flight-max) to at least 120"
    by_file = duly("models", "check", str(root), "--config", str(file))
    assert (by_file.returncode, refusal in by_file.stdout) == (1, True)
    by_environment = duly("models", "check", str(root), DULY_BYTES_IN_FLIGHT_MAX="119")
    assert (by_environment.returncode, by_environment.stdout) == (1, by_file.stdout)
    raised = duly("models", "check", str(root), "--config", str(file), "--bytes-in-flight-max", "240")
    assert (raised.returncode, raised.stdout) == (0, "double/1  ok\n")
    timed = duly("models", "check", str(root), "--engine-build-timeout-s", "60", "--load-timeout-s", "60")
    assert (timed.returncode, timed.stdout) == (0, "double/1  ok\n")
    noted = duly("models", "check", str(root), "--config", str(file), "--bytes-in-flight-max", "120")
    assert noted.returncode == 0
    assert "note: a stream may have one frame of 120 bytes unanswered" in noted.stdout


@pytest.mark.parametrize(("labels", "note"), [(5, "a line too many"), (3, "a name or a blank line missing"), (4, "")])
def test_more_or_fewer_labels_than_classes_are_told(repository: Path, labels: int, note: str) -> None:
    shutil.rmtree(repository / "double" / "2")
    (repository / "double" / "names.txt").write_text("a name\n" * labels)
    (repository / "double" / "model.toml").write_text("batch_sizes = [1]\nwarmup_runs = 1\nlabels = 'names.txt'\n")
    done = duly("models", "check", str(repository), "--lanes", "cpu:0")
    assert done.returncode == 0
    first, *notes = done.stdout.splitlines()
    assert first == "double/1  ok"
    told = f"note: names.txt has {labels} names, but 'y' has 4; is there {note}"
    assert [told in line for line in notes] == ([True] if note else [])


def test_models_check_refuses_a_lane_that_is_none(repository: Path) -> None:
    done = duly("models", "check", str(repository), "--lanes", "tpu:0")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "duly: --lanes: should be names such as cpu:0, cuda:0, openvino:NPU or webgpu:0, and not 'tpu:0', got 'tpu:0'"
    )


def test_a_reader_that_has_seen_enough_is_no_error_worth_words(repository: Path) -> None:
    source, sink = os.pipe()
    os.close(source)
    done = subprocess.run(
        [sys.executable, "-m", "duly.cli", "version"],
        stdout=sink,
        stderr=subprocess.PIPE,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": str(SERVER)},
    )
    os.close(sink)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_file_that_ends_too_soon_is_no_ctrl_c() -> None:
    """click takes an EOFError for Ctrl-D, which has no words and the status of Ctrl-C."""
    code = (
        "import click, duly.cli\n"
        "@duly.cli.cli.command()\n"
        "def short():\n"
        "    raise EOFError('the file ends too soon')\n"
        "import sys; sys.argv[1:] = ['short']; duly.cli.main()"
    )
    done = python("-c", code)
    assert (done.returncode, "the file ends too soon" in done.stderr) == (1, True)
    assert python("-c", code.replace("EOFError('the file ends too soon')", "KeyboardInterrupt")).returncode == 130
