"""What of a model is believed, and what its worker may do: the server's settings on it, as they go to workers."""

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from duly.models.manifest import check_keys
from duly.models.openssf import split_keys

if TYPE_CHECKING:
    from duly.config import ServerConfig  # which takes workers long to import


class Trust(BaseModel):
    """The settings that bound what a model can do to the server, by their names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sandbox: Literal["auto", "require", "off"] = "auto"
    worker_memory_bytes_max: int = 0
    worker_device_memory_bytes_max: int = 0
    cache_folders: tuple[str, ...] = ()
    libraries_sha256: tuple[str, ...] = ()
    manifests: Literal["off", "check", "require", "signed", "model-signing"] = "check"
    manifest_keys: tuple[str, ...] = ()
    """The public keys themselves, as OpenSSH writes them, or in PEM for model-signing."""


def trust_of(config: "ServerConfig") -> Trust:
    """Returns what the settings say. Raises OSError where the file of keys cannot be read, ManifestError where it holds
    no keys.
    """
    keys: tuple[str, ...] = ()
    if config.manifest_keys is not None:
        text = config.manifest_keys.read_text("utf-8-sig")
        if config.manifests == "model-signing":
            keys = split_keys(text)
        else:
            keys = tuple(text.splitlines())
            check_keys(keys)
    return Trust(
        sandbox=config.sandbox,
        worker_memory_bytes_max=config.worker_memory_bytes_max,
        worker_device_memory_bytes_max=config.worker_device_memory_bytes_max,
        cache_folders=tuple(str(folder) for folder in config.cache_folders),
        libraries_sha256=config.libraries_sha256,
        manifests=config.manifests,
        manifest_keys=keys,
    )
