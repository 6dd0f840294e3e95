"""What is loaded, looked up by name, by version and as it is now."""

from pathlib import Path

import pytest

from duly.models.repository import ModelVersion
from duly.models.spec import ModelConfig, Signature, TensorSpec
from duly.runtime.catalogue import Catalogue, LoadedVersion, ModelError, VersionState

SIGNATURE = Signature(
    inputs=tuple(TensorSpec(name=name, datatype="UINT8", shape=(4,), bytes_max=4) for name in "ab"),
    outputs=(),
    batch_sizes=(1,),
    any_size=True,
    stateful=False,
)


def loaded(name: str, version: str, signature: Signature | None = SIGNATURE) -> LoadedVersion:
    made = LoadedVersion(ModelVersion(name, version, Path(), Path(), ModelConfig(), ()))
    made.signature = signature
    return made


@pytest.fixture
def catalogue() -> Catalogue:
    made = Catalogue(("cpu:0",))
    for name, version in (("m", "2"), ("m", "10"), ("n", "1")):
        made.put(loaded(name, version))
    return made


def test_look_ups(catalogue: Catalogue) -> None:
    ten = catalogue.find("m", "10")
    assert ten.key == ten.version.key == "m/10"
    assert ten.key is ten.version.key, "it is made once"
    assert [each.version.version for each in catalogue.versions("m")] == ["10", "2"], "newest first, as numbers"
    assert [each.key for each in catalogue.all_versions()] == ["m/2", "m/10", "n/1"]
    assert catalogue.active("m") is None
    catalogue.activate(ten)
    assert catalogue.find("m") is catalogue.active("m") is ten
    catalogue.problems["broken"] = "its folder is empty"
    assert catalogue.names() == ["broken", "m", "n"]


def test_a_version_that_was_loaded_again_is_another(catalogue: Catalogue) -> None:
    old = catalogue.find("m", "2")
    assert catalogue.current(old) is old
    new = loaded("m", "2")
    catalogue.put(new)
    assert catalogue.current(old) is new
    catalogue.remove(new)
    assert catalogue.current(old) is None


def test_removing_the_active_version_leaves_none(catalogue: Catalogue) -> None:
    ten = catalogue.find("m", "10")
    catalogue.activate(ten)
    catalogue.remove(catalogue.find("m", "2"))
    assert catalogue.active("m") is ten
    catalogue.remove(ten)
    assert catalogue.active("m") is None


def test_what_cannot_be_had_has_a_reason(catalogue: Catalogue) -> None:
    catalogue.put(loaded("new", "1", None))
    failed = loaded("bad", "1", None)
    failed.state, failed.error = VersionState.FAILED, "no room"
    catalogue.put(failed)
    catalogue.problems["broken"] = "its folder is empty"
    catalogue.remove(catalogue.find("n", "1"))
    for number in ("7", "6"):
        ready = loaded("n", number)
        ready.state = VersionState.READY
        catalogue.put(ready)
    for name, version, reason, text in (
        (
            "n",
            "",
            "MODEL_NOT_READY",
            "model 'n' has no active version since that one was unloaded; ready are: 7, 6; activate one, or name it",
        ),
        ("x", "", "MODEL_NOT_FOUND", "there is no model 'x'; there are: bad, broken, m, n, new"),
        ("m", "3", "VERSION_NOT_FOUND", "model 'm' has no version '3' loaded; loaded are: 10, 2"),
        ("new", "1", "MODEL_NOT_READY", "model 'new' is not ready: it is being loaded"),
        ("bad", "", "MODEL_NOT_READY", "model 'bad' is not ready: no room"),
        ("broken", "", "MODEL_NOT_READY", "model 'broken' is not ready: its folder is empty"),
    ):
        with pytest.raises(ModelError) as refused:
            catalogue.find(name, version)
        assert (refused.value.reason, str(refused.value)) == (reason, text)


async def test_changes_come_at_once_and_after_each_change(catalogue: Catalogue) -> None:
    changes = catalogue.changes()
    assert await anext(changes) == ["m", "n"]
    catalogue.put(loaded("o", "1"))
    assert await anext(changes) == ["m", "n", "o"]
