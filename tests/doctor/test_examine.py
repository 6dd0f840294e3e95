"""`duly doctor` on the machine of the tests: it says the same in words and as JSON, and nothing hides the rest."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from duly.cli_doctor import doctor as command
from duly.doctor import examine as looks
from duly.doctor.examine import examine, worst
from duly.doctor.finding import Finding, Level, ProviderFinding
from duly.realtime import rights
from duly.realtime.rights import Rights
from tests import graphs
from tests.access.credentials import ca, issue

SUBJECTS = {
    "settings", "python", "packages", "onnxruntime", "isolation", "control groups", "descriptors", "memory",
    "shared memory", "locked memory", "CPUs", "wall clock", "provider", "energy",
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return graphs.save(tmp_path / "models", "m", graphs.doubling())


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "_output", lambda command: "CPUExecutionProvider" if "-c" in command else None)
    row = ProviderFinding(
        "provider", Level.OK, "it runs", "", "CPUExecutionProvider", "onnxruntime", "2", "cpu:0", True
    )
    monkeypatch.setattr(looks, "examine_providers", lambda lanes, trust: [row])


def levels(findings: list[Finding], subject: str) -> list[Level]:
    return [finding.level for finding in findings if finding.subject == subject]


def test_everything_is_looked_at(root: Path) -> None:
    findings = examine({"models": str(root)}, None, {})
    assert {finding.subject for finding in findings} >= SUBJECTS | {"models"}
    assert not [finding for finding in findings if "cannot be looked at" in finding.found]
    assert all(finding.advice for finding in findings if finding.level is not Level.OK)


def test_as_json_and_in_words(root: Path) -> None:
    told = CliRunner().invoke(command, ["--models", str(root), "--json"])
    found = json.loads(told.stdout)
    row = {"provider", "installed", "devices", "lane", "runs"}
    for each in found:
        assert each.keys() == {"subject", "level", "found", "advice"} | (
            row if each["subject"] == "provider" else set()
        )
    words = CliRunner().invoke(command, ["--models", str(root)])
    assert words.exit_code == told.exit_code == int(any(each["level"] == "problem" for each in found))
    assert all(each["subject"] in words.stdout for each in found)
    strict = CliRunner().invoke(command, ["--models", str(root), "--strict"])
    assert strict.exit_code == int(any(each["level"] != "ok" for each in found))


def test_wrong_settings_are_problems_and_hide_nothing(root: Path, tmp_path: Path) -> None:
    findings = examine({"models": str(root), "streams_max": "0"}, None, {"DULY_STREAM_MAX": "3"})
    assert levels(findings, "settings") == [Level.PROBLEM, Level.PROBLEM]
    assert {finding.subject for finding in findings} >= SUBJECTS
    assert worst(findings) is Level.PROBLEM


def test_policy_and_certificates_are_read_as_the_server_does(root: Path, tmp_path: Path) -> None:
    server_cert, key, wrong = tmp_path / "a.pem", tmp_path / "a.key", tmp_path / "policy.toml"
    soon = ca("ca").issue("localhost", expires=datetime.now(UTC) + timedelta(days=3))
    server_cert.write_bytes(soon.certificate)
    key.write_bytes(soon.key)
    wrong.write_text("[[principal]]\nnam = 'a'\n", "utf-8")
    settings = {"models": str(root), "policy": str(wrong), "tls_cert": str(server_cert), "tls_key": str(key)}
    findings = examine(settings, None, {})
    assert levels(findings, "policy") == [Level.PROBLEM] * 2
    assert levels(findings, "TLS") == [Level.WARNING]
    key.write_bytes(issue("ca", "localhost").key)
    wrong.write_text("[[principal]]\nname = 'a'\nanyone = true\n", "utf-8")
    findings = examine(settings, None, {})
    assert levels(findings, "policy") == [Level.OK]
    assert levels(findings, "TLS") == [Level.PROBLEM]


def test_keys_of_tokens_are_read_as_the_server_does(root: Path, tmp_path: Path) -> None:
    keys, policy = tmp_path / "jwks.json", tmp_path / "policy.toml"
    policy.write_text(
        f"[jwt]\nissuer = 'i'\naudience = 'a'\njwks = '{keys}'\n[[principal]]\nname = 'a'\nanyone = true\n", "utf-8"
    )
    settings = {"models": str(root), "policy": str(policy)}
    assert levels(examine(settings, None, {}), "keys of tokens") == [Level.PROBLEM]
    public = jwt.algorithms.OKPAlgorithm.to_jwk(Ed25519PrivateKey.generate().public_key(), as_dict=True)
    keys.write_text(json.dumps({"keys": [public]}), "utf-8")
    assert levels(examine(settings, None, {}), "keys of tokens") == [Level.OK]
    policy.write_text(policy.read_text("utf-8").replace(str(keys), "http://127.0.0.1:1/keys"), "utf-8")
    assert levels(examine(settings, None, {}), "keys of tokens") == [Level.WARNING]


def test_onnxruntime_writes_nothing_into_the_home_folder_when_it_is_asked(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-P", "-c", looks._ASK_PROVIDERS],
        env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "CPUExecutionProvider" in told.stdout
    assert not list(tmp_path.iterdir())


def test_without_a_folder_of_models_the_other_settings_count(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Sequence[str]] = []
    monkeypatch.setattr(looks, "examine_providers", lambda lanes, trust: asked.append(lanes) or [])
    assert levels(examine({}, None, {}), "settings") == [Level.OK]
    assert levels(examine({"lanes": "openvino:NPU"}, None, {}), "settings") == [Level.OK]
    assert asked == [(), ("openvino:NPU",)]
    found = examine({"lanes": "openvino:npu"}, None, {})
    assert Level.PROBLEM in levels(found, "settings")


def test_a_broken_model_and_broken_keys(root: Path, tmp_path: Path) -> None:
    (root / "m/model.toml").write_text("nonsense = 1\n")
    (tmp_path / "keys").write_text("no key\n")
    findings = examine({"models": str(root), "manifest_keys": str(tmp_path / "keys")}, None, {})
    assert Level.PROBLEM in levels(findings, "models")
    assert levels(findings, "manifest_keys") == [Level.PROBLEM]


def test_a_kernel_that_cannot_confine(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks.landlock, "abi", lambda: 0)
    assert levels(examine({}, None, {}), "isolation") == [Level.WARNING]
    required = examine({"models": str(root), "sandbox": "require"}, None, {})
    assert levels(required, "isolation") == [Level.PROBLEM]
    off = examine({"models": str(root), "sandbox": "off"}, None, {})
    assert levels(off, "isolation") == [Level.WARNING]


def test_few_descriptors_one_cpu_and_what_cannot_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks.resource, "getrlimit", lambda which: (64, 64))
    monkeypatch.setattr(looks, "usable_cpus", lambda: 1)
    monkeypatch.setattr(looks, "_FACTS", Path("/nowhere"))
    findings = examine({}, None, {})
    assert levels(findings, "descriptors") == levels(findings, "CPUs") == levels(findings, "hard links")
    assert levels(findings, "hard links") == [Level.WARNING]


def test_no_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise looks.BackendError("there is none")

    monkeypatch.setattr(looks, "check_installed", missing)
    assert levels(examine({}, None, {}), "onnxruntime") == [Level.PROBLEM]


def test_what_is_missing_for_real_time_is_wrong_only_where_it_is_asked_for(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = Rights(False, False, 0, False, 65_536, "No such file or directory", 2, -1)
    monkeypatch.setattr(rights, "look", lambda: without)
    idle = [each for each in examine({"models": str(root)}, None, {}) if each.subject == "real time"]
    asked = [each for each in examine({"models": str(root), "realtime": True}, None, {}) if each.subject == "real time"]
    assert [each.level for each in idle] == [Level.OK] * 4
    assert [each.level for each in asked] == [Level.PROBLEM] * 3 + [Level.WARNING]
    assert "RLIMIT_MEMLOCK is 65,536 bytes" in asked[1].found
    assert all(each.advice for each in (*idle, *asked))
    monkeypatch.setattr(rights, "look", lambda: Rights(True, True, 0, True, 0, "", 2, 950_000))
    (found,) = [
        each for each in examine({"models": str(root), "realtime": True}, None, {}) if each.subject == "real time"
    ]
    assert (found.level, "can be had" in found.found) == (Level.OK, True)
