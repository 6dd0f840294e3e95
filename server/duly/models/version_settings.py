"""Settings of one version: `NAME/VERSION/model.toml`, laid over those of its model.

Each key at the top of the version's file takes the place of the model's, in whole: `[[variant]]` there is all variants
that the version has, and `[checks]` all that its checks say. What it leaves out is as the model's file has it. So a
version can have files that the one before it did not have, and the older one goes on as it was.
"""

import re
from collections.abc import Mapping, MutableMapping, Set
from pathlib import Path

from duly.models.config_file import read_table, settings_of_table
from duly.models.errors import BrokenModel
from duly.models.folders import CONFIG_FILE
from duly.models.spec import ModelConfig

OF_ALL_VERSIONS = frozenset({"versions"})
"""Settings that are the model's alone."""
_IN_TOML = re.compile(r"([\w.-]*)/model\.toml(?: for [^:]*)?: ([a-z_]+)")


def own_name(number: str) -> str:
    """What the file of a version is called beside that of its model, whatever its folder is called."""
    return f"{number}/{CONFIG_FILE}"


def with_own_settings(
    config: ModelConfig, folder: Path, number: str, digests: MutableMapping[str, str]
) -> tuple[ModelConfig, frozenset[str]]:
    """Lays what the file in the version's folder says over the settings of its model. `digests`: gets the SHA-256 of
    the file, by its `own_name`.

    Returns the settings, and the keys that are from the version's own file. Raises BrokenModel.
    """
    path = folder / CONFIG_FILE
    if not path.exists() and not path.is_symlink():
        return config, frozenset()
    own = read_table(path, own_name(number), digests)
    if not_own := sorted(OF_ALL_VERSIONS & own.keys()):
        raise BrokenModel(f"/{own_name(number)}: {not_own[0]}: is said for all versions, in {CONFIG_FILE} of the model")
    return with_settings(config, own, own_name(number)), frozenset(own)


def with_settings(config: ModelConfig, own: Mapping[str, object], name: str = CONFIG_FILE) -> ModelConfig:
    """Lays settings, by their keys in model.toml, over others. Raises BrokenModel, which calls them `name`."""
    return settings_of_table({**_stated(config), **own}, name)


def own_settings(config: ModelConfig, own: Set[str]) -> dict[str, object]:
    """Returns of a version's settings those with these keys, as model.toml has them."""
    return {key: value for key, value in _stated(config).items() if key in own}


def in_own_file(reason: str, version: str, own: Set[str]) -> str:
    """Says the version's own file where a reason begins with model.toml and a key that is from there."""
    match = _IN_TOML.match(reason)
    if match is None or match[2] not in own:
        return reason
    return f"{match[1]}/{own_name(version)}{reason[match.end(1) + len('/' + CONFIG_FILE) :]}"


def _stated(config: ModelConfig) -> Mapping[str, object]:
    """What the model's own file states, as it would be read from there."""
    stated: dict[str, object] = config.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return stated
