"""requirements.lock: what is installed from it is whole, is what pyproject.toml allows, and is known by its hashes."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REMAKE = "requirements.lock is not of this pyproject.toml: run make lock"


def locked(python: str) -> dict[str, str]:
    """The versions by name, as they are installed by CPython of that version on Linux."""
    environment = {
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }
    found: dict[str, str] = {}
    for line in LOCK.splitlines():
        if line[:1].isalnum():
            requirement = Requirement(line.removesuffix("\\").strip())
            if requirement.marker is None or requirement.marker.evaluate(environment):
                name = canonicalize_name(requirement.name)
                assert name not in found, f"{name} stands twice for Python {python}"
                (version,) = requirement.specifier
                assert version.operator == "=="
                found[name] = version.version
    return found


def asked(extra: str) -> list[Requirement]:
    """What an extra of duly asks for, with the extras of duly that it names and the base."""
    found: list[Requirement] = []
    for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"][extra]]:
        requirement = Requirement(text)
        if requirement.name == "duly":
            for other in requirement.extras:
                found += asked(other)
        else:
            found.append(requirement)
    return found


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_it_is_what_pyproject_allows(python: str) -> None:
    versions = locked(python)
    for requirement in asked("cpu"):
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is missing; {REMAKE}"
        assert requirement.specifier.contains(version), f"{requirement} is locked as {version}; {REMAKE}"


def test_each_package_has_hashes_and_none_a_place() -> None:
    entries = re.split(r"^(?=[A-Za-z0-9])", LOCK, flags=re.MULTILINE)[1:]
    assert len(entries) >= len(asked("cpu")) - 1
    for entry in entries:
        lines = [line.strip().removesuffix("\\").strip() for line in entry.splitlines()]
        hashes = [line for line in lines[1:] if not line.startswith("#")]
        assert hashes, lines[0]
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line) for line in hashes), lines[0]
        assert " @ " not in lines[0]
    assert not re.search(r"https?:|file:|^-", LOCK, re.MULTILINE)
