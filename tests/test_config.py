"""Settings: what wins, what is refused, and whether the message tells a person what to change."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from duly.addresses import split_host_port
from duly.config import ServerConfig
from duly.config_sources import ConfigError, load_config, service_links
from duly.cpus import default_threads
from duly.default_lanes import default_lanes
from duly.realtime import lane_cpus
from duly.settings import option_name, variable_name


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def toml(folder: Path, text: str) -> Path:
    file = folder / "duly.toml"
    file.write_text(text)
    return file


def problems(overrides: dict[str, Any], file: Path | None = None, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides, file, environ or {})
    return str(caught.value).splitlines()


def test_defaults_need_a_models_folder_and_nothing_else(models: Path) -> None:
    config = load_config({"models": str(models)}, None, {"HOME": "/nowhere"})
    assert config.models == models
    assert config.listen == "127.0.0.1:8500"
    assert config.metrics is None
    assert config.lanes == ()
    assert config.bytes_in_flight_max == 64 * 1024 * 1024


def test_the_command_line_beats_the_environment_beats_the_file_beats_the_default(models: Path, tmp_path: Path) -> None:
    file = toml(tmp_path, f"models = '{models}'\nstreams_max = 1\nthreads = 1\ndrain_grace_s = 1.5")
    config = load_config({"streams_max": "3"}, file, {"DULY_STREAMS_MAX": "2", "DULY_THREADS": "2"})
    assert (config.streams_max, config.threads, config.drain_grace_s, config.frames_in_flight_max) == (3, 2, 1.5, 256)


def test_every_setting_can_come_from_every_source(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane_cpus, "check", lambda entries: None)  # the machine may have none of them
    settings = {
        "models": str(models),
        "listen": "unix:/run/duly.sock",
        "admin_listen": "unix:/run/duly-admin.sock",
        "policy": "/etc/duly/policy.toml",
        "tls_cert": "/etc/duly/server.pem",
        "tls_key": "/etc/duly/server.key",
        "tls_client_ca": "/etc/duly/ca.pem",
        "socket_mode": "0660",
        "socket_group": "video",
        "audit_log": "/var/log/duly-audit.log",
        "metrics": "[::1]:9090",
        "lanes": "cpu:0, cuda:1",
        "threads": "2",
        "cpus": "2-3, 4",
        "transport": "wan",
        "streams_max": "3",
        "frames_in_flight_max": "4",
        "bytes_in_flight_max": "5",
        "payload_bytes_max": "6",
        "budget_ms_max": "7.5",
        "drain_grace_s": "0",
        "load_timeout_s": "8",
        "versions_max": "5",
        "versions_all_max": "50",
        "watch": "load",
        "watch_settle_s": "0.5",
        "batch_timeout_ms": "9",
        "slow_reader_timeout_s": "10",
        "principal_streams_max": "2",
        "principal_bytes_in_flight_max": "12",
        "local": "cameras",
        "local_bytes_max": "12",
        "critical_streams_max": "3",
        "critical_share_max": "0.25",
        "admission": "advise",
        "advice": "false",
        "record": "/run/duly.log",
        "record_bytes_max": "11",
        "flight_folder": str(models),
        "state_folder": str(models),
        "wake_ahead": "true",
        "copy_ahead": "false",
        "realtime": "true",
        "log_format": "json",
        "log_level": "debug",
        "reflection": "false",
        "compression": "true",
        "kserve_budget_ms": "14.5",
        "kserve_shared_memory": "principal",
        "sandbox": "require",
        "worker_memory_bytes_max": "13",
        "worker_device_memory_bytes_max": "23",
        "lane_memory_bytes_max": "24",
        "sample": str(models),
        "sample_models": "yolo, vad-*",
        "sample_frames": "16",
        "sample_run_frames": "19",
        "sample_streams_max": "17",
        "sample_bytes_max": "18000",
        "learn": str(models),
        "learn_frames_per_s_max": "19.5",
        "learn_bytes_max": "20000000",
        "learn_age_s_max": "21.5",
        "learn_commands": "true",
        "learn_memory_bytes_max": "300000000",
        "cache_folders": str(tmp_path),
        "engine_cache": str(tmp_path / "engines"),
        "engine_cache_bytes_max": "2000000",
        "engine_build_timeout_s": "23.5",
        "libraries_sha256": f"{'0a' * 32}, {'0B' * 32}",
        "manifests": "require",
        "manifest_keys": "/etc/duly/trusted.pub",
    }
    assert settings.keys() == ServerConfig.model_fields.keys()
    from_command_line = load_config(settings, None, {})
    from_environment = load_config({}, None, {variable_name(name): value for name, value in settings.items()})
    file = toml(tmp_path, "\n".join(f"{name} = {value!r}" for name, value in settings.items()))
    assert from_command_line == from_environment == load_config({}, file, {})
    assert from_command_line.lanes == ("cpu:0", "cuda:1")
    assert from_command_line.cpus == ("2-3", "4")
    assert from_command_line.reflection is False


def test_toml_values_may_have_their_own_types(models: Path, tmp_path: Path) -> None:
    file = toml(tmp_path, "budget_ms_max = 250\nreflection = false\nlanes = ['cpu:0']")
    config = load_config({"models": models}, file, {})
    assert (config.budget_ms_max, config.reflection, config.lanes) == (250.0, False, ("cpu:0",))


def test_each_problem_of_each_source_is_told_with_its_place(models: Path, tmp_path: Path) -> None:
    file = toml(tmp_path, "streams_max = -1\nlanes = ['cpu:0', 'gpu:1']")
    assert problems({"models": models, "listen": "8500"}, file, {"DULY_THREADS": "many"}) == [
        "--listen: should be HOST:PORT, such as 127.0.0.1:8500 or [::1]:8500, got '8500'",
        f"{file}: lanes: should be names such as cpu:0, cuda:0, openvino:NPU or webgpu:0, and not 'gpu:1', "
        "got ['cpu:0', 'gpu:1']",
        "environment DULY_THREADS: should be a valid integer, unable to parse string as an integer, got 'many'",
        f"{file}: streams_max: should be greater than 0, got -1",
    ]


def test_unknown_settings_are_refused_with_the_likely_one(models: Path, tmp_path: Path) -> None:
    file = toml(tmp_path, "stream_max = 1\nzebra = 2")
    environ = {"DULY_LOGLEVEL": "info", "DULY_CACHE_DIR": "/x", "DULY_DEBUG": "1", "PATH": "/bin"}
    assert problems({"models": models}, file, environ) == [
        f"{file}: stream_max: unknown setting; did you mean streams_max?",
        f"{file}: zebra: unknown setting; duly serve --help lists them all",
        "environment DULY_LOGLEVEL: unknown setting; did you mean DULY_LOG_LEVEL?",
    ]


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("listen", ":8500", "should be HOST:PORT"),
        ("listen", "::1:8500", "should be HOST:PORT"),
        ("listen", "localhost:70000", "should end in a port from 0 (any free one) to 65535"),
        ("listen", "localhost:http", "should end in a port"),
        ("listen", "unix:", "should be unix:PATH with a path of 1 to 107 bytes"),
        ("listen", "unix:/" + "x" * 107, "should be unix:PATH with a path of 1 to 107 bytes"),
        ("metrics", "unix:/run/metrics", "should end in a port"),
        ("lanes", "cpu:0,cpu:0", "should name each lane once"),
        ("lanes", ",".join(f"cpu:{i}" for i in range(65)), "should be at most 64 lanes"),
        ("transport", "carrier pigeon", "should be 'lan' or 'wan'"),
        ("budget_ms_max", "inf", "should be a finite number"),
        ("budget_ms_max", "nan", "should be a finite number"),
        ("load_timeout_s", "0", "should be greater than 0"),
        ("drain_grace_s", "601", "should be less than or equal to 600"),
        ("streams_max", "1e3", "should be a valid integer"),
        ("reflection", "perhaps", "should be a valid boolean"),
        ("bytes_in_flight_max", str(2**41), "should be less than or equal to 1099511627776"),
    ],
)
def test_bad_values_are_refused(models: Path, setting: str, value: str, expected: str) -> None:
    (problem,) = problems({"models": models, setting: value})
    assert problem.startswith(f"{option_name(setting)}: {expected}")
    assert problem.endswith(f", got {value!r}")


def test_one_stream_may_not_be_granted_more_than_all_together(models: Path) -> None:
    assert problems({"models": models, "bytes_in_flight_max": 2**31}) == [
        "payload_bytes_max: should be at least bytes_in_flight_max, which is 2147483648, got 1073741824"
    ]


def test_a_missing_folder_and_a_missing_setting_differ(tmp_path: Path) -> None:
    assert problems({"models": tmp_path / "none"}) == [
        f"--models: should be an existing folder, got '{tmp_path / 'none'}'"
    ]
    assert problems({}) == ["models: is required: give --models, DULY_MODELS or models in the TOML file"]


def test_an_empty_variable_counts_as_not_set(models: Path) -> None:
    assert load_config({}, None, {"DULY_MODELS": str(models), "DULY_METRICS": ""}).metrics is None


def test_a_broken_file_is_named_with_the_place(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    assert problems({}, missing) == [f"{missing}: can't be read: No such file or directory"]
    broken = toml(tmp_path, "models =\n")
    (problem,) = problems({}, broken)
    assert problem.startswith(f"{broken}: not valid TOML: ")
    assert "line 1" in problem
    broken.write_bytes(b"models = '\xff'")
    (problem,) = problems({}, broken)
    assert problem.startswith(f"{broken}: not valid TOML: ")


def test_settings_never_change(models: Path) -> None:
    config = load_config({"models": models}, None, {})
    with pytest.raises(ValidationError, match="frozen"):
        config.threads = 3


def test_every_setting_is_explained() -> None:
    assert [name for name, setting in ServerConfig.model_fields.items() if not setting.description] == []


def test_host_and_port_are_told_apart() -> None:
    assert split_host_port("[fe80::1]:0") == ("fe80::1", 0)
    assert split_host_port("robot.local:8500") == ("robot.local", 8500)


# ---- what the machine offers ----


@pytest.fixture
def gpu_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As seen from a process: the GPU package's metadata, and an nvidia-smi that lists two GPUs, one of them split."""
    metadata = tmp_path / "onnxruntime_gpu-1.31.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.31.0\n")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-a)'\necho '  MIG 1g.5gb Device 0:'\necho 'GPU 1: B'\n")
    tool.chmod(0o755)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tool


def test_each_gpu_is_a_lane(gpu_machine: Path) -> None:
    assert default_lanes() == ("cuda:0", "cuda:1")


@pytest.mark.parametrize(
    ("visible", "lanes"), [("1", ("cuda:0",)), ("", ("cpu:0",)), ("-1", ("cpu:0",)), ("0,1,2", ("cuda:0", "cuda:1"))]
)
def test_gpus_hidden_from_the_process_are_no_lanes(
    gpu_machine: Path, monkeypatch: pytest.MonkeyPatch, visible: str, lanes: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert default_lanes() == lanes


def test_without_a_working_driver_the_cpu_is_the_lane(gpu_machine: Path) -> None:
    gpu_machine.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert default_lanes() == ("cpu:0",)


def test_the_serving_process_keeps_a_core_to_itself() -> None:
    assert default_threads() >= 1


# ---- variables that the platform sets ----

CLUSTER = {
    "DULY_SERVICE_HOST": "10.96.0.7",
    "DULY_SERVICE_PORT": "8500",
    "DULY_SERVICE_PORT_GRPC": "8500",
    "DULY_PORT": "tcp://10.96.0.7:8500",
    "DULY_PORT_8500_TCP": "tcp://10.96.0.7:8500",
    "DULY_PORT_8500_TCP_PROTO": "tcp",
    "DULY_PORT_8500_TCP_PORT": "8500",
    "DULY_PORT_8500_TCP_ADDR": "10.96.0.7",
    "DULY_METRICS_SERVICE_HOST": "fd00::7",
    "DULY_METRICS_SERVICE_PORT_GRPC": "9090",
    "DULY_STREAMS_MAX_PORT": "tcp://10.96.0.8:80",
    "DULY_CAMERA_2_PORT_53_UDP": "udp://10.96.0.9:53",
    "DULY_CAMERA_2_PORT_53_UDP_ADDR": "10.96.0.9",
    "DULY_CAMERA_2_PORT_9_SCTP_PROTO": "sctp",
}
LINKED_CONTAINER = {
    "DULY_NAME": "/web/duly",
    "DULY_ENV_STREAMS_MAX": "3",
    "DULY_ENV_PATH": "/bin",
    "DULY_PORT_8500_TCP_PORT_START": "8500",
    "DULY_PORT_8500_TCP_PORT_END": "8510",
}


@pytest.mark.parametrize("links", [CLUSTER, LINKED_CONTAINER])
def test_links_to_services_named_duly_are_no_settings(models: Path, links: dict[str, str]) -> None:
    environ = links | {"DULY_MODELS": str(models), "DULY_STREAMS_MAX": "7", "PATH": "/bin"}
    assert load_config({}, None, environ).streams_max == 7
    assert service_links(environ) == sorted(links)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DULY_STREAM_MAX", "7"),
        ("DULY_PORT", "8500"),
        ("DULY_METRICS_PORT", "9090"),
        ("DULY_PORT_METRICS", "tcp://10.96.0.7:8500"),
        ("DULY_SERVICE", "10.96.0.7"),
        ("DULY_NAME", "camera"),
        ("DULY_ENV_STREAMS_MAX", "3"),
        ("DULY_STREAMSMAX", "tcp://10.96.0.7:8500"),
    ],
)
def test_what_only_looks_a_little_like_a_link_is_an_unknown_setting(models: Path, variable: str, value: str) -> None:
    (problem,) = problems({"models": models}, None, {variable: value})
    assert problem.startswith(f"environment {variable}: unknown setting; ")


def test_no_setting_is_ever_taken_for_a_link() -> None:
    for value in ("10.96.0.7", "8500", "tcp://10.96.0.7:8500", "/web/duly"):
        assert service_links({variable_name(setting): value for setting in ServerConfig.model_fields}) == []


@pytest.mark.parametrize(
    ("listen", "metrics", "fits"),
    [
        ("127.0.0.1:9000", "127.0.0.1:9000", False),
        ("0.0.0.0:9000", "127.0.0.1:9000", False),
        ("[::1]:9000", "[::]:9000", False),
        ("127.0.0.1:9000", "127.0.0.2:9000", True),
        ("127.0.0.1:0", "127.0.0.1:0", True),
        ("unix:a.sock", "127.0.0.1:9000", True),
    ],
)
def test_metrics_have_a_port_of_their_own(tmp_path: Path, listen: str, metrics: str, fits: bool) -> None:
    settings = {"models": tmp_path, "listen": listen, "metrics": metrics}
    if fits:
        assert load_config(settings, None, {}).metrics == metrics
    else:
        with pytest.raises(ConfigError, match=r"^--metrics: should have another port than listen, which is "):
            load_config(settings, None, {})


@pytest.mark.parametrize(
    "name", ["listen", "admin_listen", "metrics", "record", "flight_folder", "state_folder", "models"]
)
@pytest.mark.parametrize("value", ["unix:/run/du\0ly.sock", "\x1b[2J127.0.0.1:8500", "127.0.0.1:\n8500"])
def test_control_characters_reach_no_terminal(tmp_path: Path, name: str, value: str) -> None:
    file = tmp_path / "duly.toml"
    file.write_text(f"{name} = {json.dumps(value)}")
    with pytest.raises(ConfigError) as error:
        load_config({} if name == "models" else {"models": tmp_path}, file, {})
    assert str(error.value) == f"{file}: {name}: should have no control characters, got {value!r}"


@pytest.mark.parametrize("manifests", ["signed", "model-signing"])
def test_versions_that_must_be_signed_are_not_learnt(models: Path, manifests: str) -> None:
    given = {"models": models, "learn": models, "manifests": manifests, "manifest_keys": models / "keys"}
    (problem,) = problems(given)
    assert problem.startswith("learn: versions that are learnt cannot be signed")
    assert f"manifests is {manifests}, so that none of them could be loaded: set manifests to require" in problem
    assert load_config(given | {"manifests": "require"}, None, {}).learn == models
