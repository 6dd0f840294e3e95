"""Signatures of OpenSSF's model-signing, made by its own tool: what was signed is loaded, anything else is refused."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from duly.config_sources import load_config
from duly.models import openssf
from duly.models.manifest import ManifestError
from duly.models.trust import trust_of
from duly.worker.load_model import load
from tests import graphs
from tests.worker.client import load_body, version_of
from tests.worker.loading import body_of, reason_of

INSTALLED = all(importlib.util.find_spec(name) for name in ("model_signing", "OpenSSL"))
needs_library = pytest.mark.skipif(not INSTALLED, reason="needs the extra model-signing: make model-signing")


def pem(key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


KEY = ec.derive_private_key(7, ec.SECP256R1())
OTHER = ec.derive_private_key(8, ec.SECP384R1())
TRUST: dict[str, Any] = {
    "manifests": "model-signing",
    "manifest_keys": [pem(OTHER.public_key()), pem(KEY.public_key())],
}


def signed(folder: Path, target: Path, *options: str, key: ec.EllipticCurvePrivateKey = KEY) -> None:
    """Signs with the tool, whose command line is called here because starting it takes a second."""
    from click.testing import CliRunner
    from model_signing._cli import main

    file = target.parent.parent.parent / "key.pem"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    arguments = ["sign", "key", str(folder), "--private_key", str(file), "--signature", str(target), *options]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output


@pytest.fixture
def root(tmp_path: Path) -> Path:
    graphs.save(tmp_path / "models", "m", graphs.doubling())
    (tmp_path / "models/m/model.toml").write_text("default_budget_ms = 50\n")
    return tmp_path / "models"


@needs_library
def test_a_signed_model_is_loaded_and_no_other(root: Path) -> None:
    bundle = root / "m/1/model.sig"
    assert reason_of(root, "m", trust=TRUST).startswith("m/1: model.sig is missing, and manifests is model-signing")
    signed(root / "m", bundle)
    load(body_of(root, "m", trust=TRUST))
    only_other = TRUST | {"manifest_keys": TRUST["manifest_keys"][:1]}
    assert reason_of(root, "m", trust=only_other).startswith("m/1: model.sig is no signature by one of manifest_keys")

    graph = (root / "m/1/model.onnx").read_bytes()
    graphs.save(root, "m", graphs.copying(("N", 4)))
    assert reason_of(root, "m", trust=TRUST).startswith("m/1/model.onnx: is not what model.sig lists")
    (root / "m/1/model.onnx").write_bytes(graph)
    (root / "m/1").rename(root / "m/2")
    reason = reason_of(root, "m", trust=TRUST)
    assert "is not listed in model.sig; sign the model's folder" in reason, "nobody signed a version 2"
    (root / "m/2").rename(root / "m/1")

    with (root / "m/model.toml").open("a") as file:
        file.write("# more\n")
    assert reason_of(root, "m", trust=TRUST).startswith("m/1: ../model.toml is not what model.sig lists")
    (root / "m/model.toml").unlink()
    assert reason_of(root, "m", trust=TRUST) == "m/1: ../model.toml is listed in model.sig and is not there"


@needs_library
def test_the_folder_of_a_version_alone(root: Path) -> None:
    signed(root / "m/1", root / "m/1/model.sig")
    reason = reason_of(root, "m", trust=TRUST)
    assert reason.startswith("m/1: ../model.toml is not listed in model.sig; sign the model's folder")
    (root / "m/model.toml").unlink()
    load(body_of(root, "m", trust=TRUST))


@needs_library
def test_what_is_no_such_signature(root: Path) -> None:
    bundle = root / "m/1/model.sig"
    signed(root / "m", bundle)
    whole = json.loads(bundle.read_text())
    cut = bundle.read_bytes()[:-9]
    envelope = whole["dsseEnvelope"]
    payload = envelope["payload"]
    changed = payload[:400] + ("A" if payload[400] != "A" else "B") + payload[401:]
    unsigned = {**whole, "dsseEnvelope": {**envelope, "signatures": []}}
    other = {**whole, "dsseEnvelope": {**envelope, "payload": changed}}
    for data in (b"", cut, b"[" * 100_000, b"\xff\x00", json.dumps(unsigned).encode(), json.dumps(other).encode()):
        bundle.write_bytes(data)
        assert reason_of(root, "m", trust=TRUST).startswith("m/1: model.sig is no signature by one of manifest_keys")
    bundle.unlink()
    bundle.mkdir()
    assert reason_of(root, "m", trust=TRUST).startswith("m/1: model.sig is no file of at most")


@needs_library
def test_digests_of_another_kind(root: Path) -> None:
    from model_signing import hashing, signing

    file = root.parent / "key.pem"
    file.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    config = signing.Config().use_elliptic_key_signer(private_key=file)
    config.set_hashing_config(hashing.Config().use_file_serialization(hashing_algorithm="blake2"))
    config.sign(root / "m", root / "m/1/model.sig")
    assert "digests of the kind blake2b; sign with SHA-256" in reason_of(root, "m", trust=TRUST)


@needs_library
def test_a_confined_worker_verifies(root: Path, tmp_path: Path) -> None:
    signed(root / "m", root / "m/1/model.sig")
    body = load_body(version_of(root, "m")) | {"trust": TRUST | {"sandbox": "auto"}}
    program = (
        "import json, sys\n"
        "from duly.worker.confine import confine_for\n"
        "from duly.worker.load_model import load\n"
        "body = json.loads(sys.argv[1])\n"
        "confine_for(body)\n"
        "load(body)\n"
        "print('loaded')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, json.dumps(body)], capture_output=True, text=True)
    assert done.stdout.endswith("loaded\n"), done.stderr


def test_without_the_library_the_server_says_what_to_install(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "keys.pem"
    keys.write_text(pem(KEY.public_key()))
    config = load_config({"models": root, "manifests": "model-signing", "manifest_keys": keys}, None, {})
    monkeypatch.setattr(openssf.importlib.util, "find_spec", lambda name: None)  # as where it is not installed
    with pytest.raises(ManifestError, match=r"is not installed: pip install 'duly\[model-signing\]'"):
        trust_of(config)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "takes public keys in PEM"),
        ("ssh-ed25519 AAAA", "takes public keys in PEM"),
        (pem(KEY.public_key()) + "-----BEGIN CERTIFICATE-----\n", "takes public keys in PEM and nothing else"),
        (pem(KEY.public_key()).replace("M", "x", 1), "key 1 is no public key"),
        (pem(KEY.public_key()) + pem(ed25519.Ed25519PrivateKey.generate().public_key()), "key 2 is not on a curve"),
        (pem(ec.derive_private_key(5, ec.SECP256K1()).public_key()), "key 1 is not on a curve"),
    ],
)
def test_files_of_keys(text: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openssf.importlib.util, "find_spec", lambda name: True)
    assert openssf.split_keys("# ours\n" + TRUST["manifest_keys"][0] + TRUST["manifest_keys"][1])
    with pytest.raises(ManifestError, match=reason):
        openssf.split_keys(text)
