"""`duly models manifest`: writes what a version holds into its folder, for the server to check, and signs it."""

import hashlib
import os
from pathlib import Path

import click

from duly.models.folders import CONFIG_FILE
from duly.models.manifest import MANIFEST_FILE, SIGNATURE_FILE, ManifestError, sign
from duly.models.repository import ModelVersion, NotARepository, Repository
from duly.models.triton.origin import TRITON_FILE


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, path_type=Path))
@click.argument("model", metavar="NAME[/VERSION]")
@click.option(
    "--sign", "key", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="KEY", help="Private key."
)
def manifest(folder: Path, model: str, key: Path | None) -> None:
    """Write sha256sums into the folder of a version, the newest one unless it is named.

    It lists all files of the version, its settings, labels and first states. With --sign, a private Ed25519 key of
    OpenSSH signs it (sha256sums.sig), as `ssh-keygen -Y sign -n file` does. The server looks at both by its setting
    `manifests`.
    """
    version = _version(folder, model)
    text = _listing(version)
    target = version.folder / MANIFEST_FILE
    signature = None if key is None else _signature(text, key)
    _replace(target, text)
    click.echo(f"{version.key}/{MANIFEST_FILE}: {len(text.splitlines())} files")
    beside = version.folder / SIGNATURE_FILE
    if signature is not None:
        _replace(beside, signature)
        click.echo(f"{version.key}/{SIGNATURE_FILE}: signed")
    elif beside.exists():
        beside.unlink()
        click.echo(f"{version.key}/{SIGNATURE_FILE}: removed, it was of another {MANIFEST_FILE}", err=True)


def _version(folder: Path, model: str) -> ModelVersion:
    try:
        versions, problems = Repository(folder).scan()
    except NotARepository as error:
        raise click.UsageError(str(error)) from error
    found = next((version for version in versions if model in (version.key, version.name)), None)
    if found is None:
        reasons = [problem.reason for problem in problems if problem.name == model.partition("/")[0]]
        there = ", ".join(version.key for version in versions) or "none"
        raise click.ClickException(reasons[0] if reasons else f"no model {model} in {folder}; there are {there}")
    return found


def _listing(version: ModelVersion) -> bytes:
    initial = [state.initial for state in version.config.states]
    beside = [CONFIG_FILE, TRITON_FILE, version.config.labels, *dict.fromkeys(initial)]
    beside = [name for name in beside if name and (version.model_folder / name).is_file()]
    beside += [str(provider.library) for provider in version.config.providers if provider.library is not None]
    names = [f"../{name}" for name in beside if not Path(name).is_absolute()]
    for parent, folders, files in os.walk(version.folder):
        folders.sort()
        for name in sorted(files):
            path = Path(parent, name)
            if path.is_file() and name not in (MANIFEST_FILE, SIGNATURE_FILE):
                names.append(str(path.relative_to(version.folder)))
    lines = []
    for name in names:
        # Escaped as sha256sum does it.
        plain = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        path = version.model_folder / name[3:] if name.startswith("../") else version.folder / name
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        lines.append(("" if plain == name else "\\") + f"{digest}  {plain}\n")
    return "".join(lines).encode(errors="surrogateescape")


def _signature(text: bytes, key: Path) -> bytes:
    private = key.read_bytes()
    try:
        return sign(text, private, None)
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"signing needs the module {error.name}, which is not installed: pip install 'duly[cpu]'"
        ) from error
    except ManifestError as error:
        if "password" not in str(error).lower() and "passphrase" not in str(error).lower():
            raise click.ClickException(f"{key}: {error}") from error
    passphrase = click.prompt(f"Passphrase of {key}", hide_input=True, err=True)
    try:
        return sign(text, private, passphrase.encode())
    except ManifestError as error:
        raise click.ClickException(f"{key}: {error}") from error


def _replace(path: Path, data: bytes) -> None:
    """Writes a file in whole: it holds what it held before until it holds all of `data`."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    partial.replace(path)
