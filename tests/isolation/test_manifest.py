"""Manifests of versions: what `sha256sum` and `ssh-keygen` write is taken, and what does not fit is refused."""

import base64
import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from duly.cli_models import models
from duly.models.manifest import ManifestError, check_keys, check_signature, parse_manifest, sign
from duly.worker.errors import LoadError
from duly.worker.load_model import load
from tests import graphs
from tests.worker.loading import body_of, reason_of

DIGEST = hashlib.sha256(b"contents").hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()


def key_of(seed: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)


def private(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def public(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return graphs.save(tmp_path / "models", "m", graphs.doubling())


def written(root: Path, *arguments: str) -> Path:
    done = CliRunner().invoke(models, ["manifest", str(root), "m", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return root / "m/1/sha256sums"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (f"{DIGEST}  model.onnx", "model.onnx"),
        (f"{DIGEST} *model.onnx", "model.onnx"),
        (f"{DIGEST.upper()}  ./model.onnx", "model.onnx"),
        (f"SHA256 (weights/a b.bin) = {DIGEST}", "weights/a b.bin"),
        (f"\\{DIGEST}  odd\\nname\\\\x", "odd\nname\\x"),
        (f"{DIGEST}  ../model.toml\r", "../model.toml"),
        (f"\ufeff{DIGEST}  modèle.onnx", "modèle.onnx"),
        (f"# made by hand\n\n{DIGEST}  model.onnx", "model.onnx"),
    ],
)
def test_what_tools_write(line: str, name: str) -> None:
    assert parse_manifest(f"{line}\n".encode()) == {name: DIGEST}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{DIGEST[:-1]}  model.onnx", "line 1 is not DIGEST"),
        (f"{DIGEST}  a\n{DIGEST} b", "line 2 is not DIGEST"),
        (f"{DIGEST}  /etc/passwd", "line 1 names a file that is neither"),
        (f"{DIGEST}  ../../other/1/model.onnx", "line 1 names a file that is neither"),
        (f"{DIGEST}  a/../../b", "line 1 names a file that is neither"),
        (f"{DIGEST}  ..", "line 1 names a file that is neither"),
        (f"{DIGEST}  a\n{OTHER}  ./a", "line 2 lists a file again, with another digest"),
        ("\x00" * 100, "line 1 is not DIGEST"),
    ],
)
def test_what_makes_no_sense(text: str, reason: str) -> None:
    with pytest.raises(ManifestError, match=reason):
        parse_manifest(text.encode())


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(ManifestError, match="byte 0 is not UTF-8"):
        parse_manifest(b"\xff\xfe\x00")


def test_a_version_with_its_manifest_loads_and_a_changed_one_does_not(root: Path) -> None:
    listed = written(root)
    assert {line.split("  ")[1] for line in listed.read_text().splitlines()} == {"../model.toml", "model.onnx"}
    load(body_of(root, "m", trust={"manifests": "require"}))
    graphs.save(root, "m", graphs.copying(("N", 4)))
    reason = reason_of(root, "m", trust={"manifests": "require"})
    assert reason.startswith("m/1/model.onnx: is not what sha256sums lists: its SHA-256 begins with")
    assert reason_of(root, "m") == reason, "one that is there is checked without being required"
    load(body_of(root, "m", trust={"manifests": "off"}))


def test_settings_that_were_changed(root: Path) -> None:
    written(root)
    with (root / "m/model.toml").open("a") as file:
        file.write("default_budget_ms = 77\n")
    assert reason_of(root, "m").startswith("m/1: ../model.toml is not what sha256sums lists")


def test_settings_that_were_taken_away(root: Path) -> None:
    written(root)
    (root / "m/model.toml").unlink()
    assert reason_of(root, "m") == "m/1: ../model.toml is listed in sha256sums and is not there"


def test_settings_that_are_put_back_after_the_server_has_read_others(root: Path) -> None:
    written(root)
    good = (root / "m/model.toml").read_bytes()
    (root / "m/model.toml").write_bytes(good + b"default_budget_ms = 77\n")
    body = body_of(root, "m", trust={"manifests": "require"})
    (root / "m/model.toml").write_bytes(good)
    with pytest.raises(LoadError, match="is not what sha256sums lists"):
        load(body)


def test_settings_of_the_version_itself_are_a_file_of_it(root: Path) -> None:
    own = root / "m/1/model.toml"
    own.write_text("default_budget_ms = 77\n")
    listed = written(root)
    names = {line.split("  ")[1] for line in listed.read_text().splitlines()}
    assert names == {"../model.toml", "model.toml", "model.onnx"}
    load(body_of(root, "m", trust={"manifests": "require"}))
    own.write_text("default_budget_ms = 78\n")
    assert reason_of(root, "m").startswith("m/1: model.toml is not what sha256sums lists")
    own.unlink()
    assert reason_of(root, "m") == "m/1: model.toml is listed in sha256sums and is not there"


def test_settings_of_the_version_itself_must_be_signed(root: Path) -> None:
    trust = signed(root)
    (root / "m/1/model.toml").write_text("default_budget_ms = 77\n")
    assert reason_of(root, "m", trust=trust).startswith("m/1: model.toml is not listed in sha256sums")


def test_files_that_are_not_listed(tmp_path: Path) -> None:
    numbers = np.arange(4, dtype=np.float32)
    tensor = graphs.external("w", numbers, "weights.bin")
    graphs.save(tmp_path / "models", "m", graphs.with_tensor("main", tensor))
    folder = tmp_path / "models/m/1"
    (folder / "weights.bin").write_bytes(numbers.tobytes())
    listed = written(tmp_path / "models")
    load(body_of(tmp_path / "models", "m"))
    whole = listed.read_text()
    listed.write_text("".join(line for line in whole.splitlines(True) if "weights.bin" not in line))
    reason = reason_of(tmp_path / "models", "m")
    assert reason.endswith("weights.bin is not listed in sha256sums; list every file of the version there")
    listed.write_text(f"{DIGEST}  other.bin\n")
    reason = reason_of(tmp_path / "models", "m")
    assert reason == "m/1/model.onnx: is not listed in sha256sums; list every file of the version there"
    listed.write_text(whole)
    (folder / "weights.bin").write_bytes(numbers[::-1].tobytes())
    assert "weights.bin is not what sha256sums lists" in reason_of(tmp_path / "models", "m")


@pytest.mark.parametrize("name", ["SHA256SUMS", ""])
def test_a_version_without_one_where_each_must_have_one(root: Path, name: str) -> None:
    if name:
        (root / "m/1" / name).write_text("")
    reason = reason_of(root, "m", trust={"manifests": "require"})
    advice = "; rename SHA256SUMS" if name else ""
    assert reason == f"m/1: sha256sums is missing, and manifests is require{advice}"


def signed(root: Path, seed: int = 1, keys: tuple[int, ...] = (1,)) -> dict[str, Any]:
    written(root, "--sign", str(_saved(root.parent / "key", private(key_of(seed)))))
    return {"manifests": "signed", "manifest_keys": [public(key_of(each)) for each in keys]}


def _saved(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_signed_version(root: Path) -> None:
    trust = signed(root, seed=2, keys=(1, 2))
    load(body_of(root, "m", trust=trust))
    (root / "m/1/sha256sums").write_text((root / "m/1/sha256sums").read_text() + "# more\n")
    assert reason_of(root, "m", trust=trust) == "m/1: sha256sums.sig does not fit sha256sums: one of them was changed"


def test_a_key_that_is_not_trusted(root: Path) -> None:
    trust = signed(root, seed=3, keys=(1, 2))
    assert reason_of(root, "m", trust=trust) == "m/1: sha256sums.sig is by a key that is not among manifest_keys"


def test_a_signed_manifest_covers_the_settings(root: Path) -> None:
    digest = hashlib.sha256((root / "m/1/model.onnx").read_bytes()).hexdigest()
    text = f"{digest}  model.onnx\n".encode()
    (root / "m/1/sha256sums").write_bytes(text)
    (root / "m/1/sha256sums.sig").write_bytes(sign(text, private(key_of(1)), None))
    trust = {"manifests": "signed", "manifest_keys": [public(key_of(1))]}
    assert reason_of(root, "m", trust=trust).startswith("m/1: ../model.toml is not listed in sha256sums")


def test_no_signature(root: Path) -> None:
    written(root)
    trust = {"manifests": "signed", "manifest_keys": [public(key_of(1))]}
    assert reason_of(root, "m", trust=trust) == "m/1: sha256sums.sig is missing, and manifests is signed"


def test_every_changed_byte_of_a_signature_is_refused() -> None:
    text, keys = b"what is signed", [public(key_of(1))]
    whole = sign(text, private(key_of(1)), None)
    check_signature(text, whole, keys)
    lines = whole.decode().splitlines()
    blob = bytearray(base64.b64decode("".join(lines[1:-1])))
    for at in range(len(blob)):
        blob[at] ^= 1
        changed = base64.b64encode(bytes(blob)).decode()
        with pytest.raises(ManifestError):
            check_signature(text, f"{lines[0]}\n{changed}\n{lines[-1]}\n".encode(), keys)
        blob[at] ^= 1
    for cut in range(0, len(blob), 7):
        shorter = base64.b64encode(bytes(blob[:cut])).decode()
        with pytest.raises(ManifestError):
            check_signature(text, f"{lines[0]}\n{shorter}\n{lines[-1]}\n".encode(), keys)


@pytest.mark.parametrize("line", ["ssh-rsa AAAA", "ssh-ed25519 AAAA", "ssh-ed25519", "nonsense", ""])
def test_lines_that_are_no_keys(line: str) -> None:
    with pytest.raises(ManifestError):
        check_keys([line])


def test_keys_as_openssh_writes_them() -> None:
    key = public(key_of(1))
    lines = ["# trusted", "", f"{key} a comment", f'me@example.org namespaces="file" {key}']
    assert len(check_keys(lines)) == 2


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="there is no ssh-keygen")
def test_signatures_of_openssh_and_for_it(tmp_path: Path) -> None:
    key, text = tmp_path / "id", tmp_path / "sha256sums"
    text.write_bytes(b"what is signed\n")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    subprocess.run(
        ["ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", "file", str(text)], check=True, capture_output=True
    )
    trusted = [(tmp_path / "id.pub").read_text()]
    check_signature(text.read_bytes(), (tmp_path / "sha256sums.sig").read_bytes(), trusted)
    ours = _saved(tmp_path / "ours.sig", sign(text.read_bytes(), key.read_bytes(), None))
    checked = subprocess.run(
        ["ssh-keygen", "-Y", "check-novalidate", "-n", "file", "-s", str(ours)],
        input=text.read_bytes(),
        capture_output=True,
    )
    assert checked.returncode == 0, checked.stderr
    subprocess.run(
        ["ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", "git", str(text)],
        check=True,
        capture_output=True,
        input=b"y\n",
    )
    with pytest.raises(ManifestError, match="made for another use"):
        check_signature(text.read_bytes(), (tmp_path / "sha256sums.sig").read_bytes(), trusted)
