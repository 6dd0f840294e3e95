"""`duly token` and `duly certs`: what they write can be used as it is, and by nobody else."""

import ssl
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from duly.access.policy import read_policy
from duly.access.tls_files import read_tls
from duly.access.tokens import id_of
from duly.cli_certs import certs
from duly.cli_token import token
from tests.access.credentials import EXPIRED, policy, signed


def told(*words: str | Path, stdin: str = "") -> Result:
    return CliRunner().invoke(token if words[0] != "dev" else certs, [str(word) for word in words], input=stdin)


def test_a_token_is_made_checked_and_known(tmp_path: Path) -> None:
    file = tmp_path / "camera.token"
    lines = told("new", "--file", file, "--days", 3).stdout
    made = file.read_text("ascii").strip()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert id_of(made)
    assert made not in lines
    written = tmp_path / "policy.toml"
    written.write_text(f'[[principal]]\nname = "cam"\nmodels = ["lane-*"]\n\n{lines}', "utf-8")
    assert read_policy(written).principal[0].token[0].id == id_of(made)
    shown = told("check", "--policy", written, "--file", file)
    assert shown.exit_code == 0
    assert shown.stdout.splitlines()[:4] == [
        "principal: cam",
        "may: infer, read",
        "models: lane-*",
        "classes: STANDARD, BEST_EFFORT",
    ]
    assert "good: until " in shown.stdout
    assert told("hash", stdin=made + "\n").stdout.splitlines() == lines.splitlines()[:3]
    again = told("new", "--file", file)
    assert "is there already" in again.output
    assert file.read_text("ascii").strip() == made


def test_what_a_token_is_not_good_for_is_said(tmp_path: Path) -> None:
    written = policy(tmp_path)
    assert "principal: camera" in told("check", "--policy", written, stdin=signed()).output
    assert "the token is refused: the token has expired" in told("check", "--policy", written, stdin=EXPIRED).output
    assert "the token is refused: no credential was sent" in told("check", "--policy", written).output
    assert "should hold one token that `duly token new` has made" in told("hash", stdin="secret").output


@pytest.mark.parametrize("name", ["server", "client"])
def test_certificates_for_a_first_try_can_be_used(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "certs"
    said = told("dev", folder, "--host", "robot.test").output
    assert f"duly serve --tls-cert {folder}/server.pem" in said
    key = folder / f"{name}.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert read_tls(folder / f"{name}.pem", key, folder / "ca.pem")
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / f"{name}.pem", key)
    assert "is there already; choose another folder" in told("dev", folder).output
