"""Which file a model's settings are read from: model.toml, or else what Triton reads."""

from collections.abc import MutableMapping, Set
from pathlib import Path

from duly.models.config_file import read_config
from duly.models.folders import CONFIG_FILE
from duly.models.triton.config_pbtxt import Settings, read_pbtxt
from duly.models.triton.origin import TRITON_FILE


def read_settings(folder: Path, names: Set[str], digests: MutableMapping[str, str] | None = None) -> Settings:
    """Reads the settings of the model in `folder`, in which there are `names`. `digests`: as for `read_text`.

    Raises:
        BrokenModel: the file cannot be read, or says something that no model can have.
    """
    if TRITON_FILE not in names:
        return Settings(read_config(folder, digests), {}, ())
    if CONFIG_FILE in names:
        note = f"/{TRITON_FILE}: is not read beside {CONFIG_FILE}, which says all of the model's settings"
        return Settings(read_config(folder, digests), {}, (note,))
    return read_pbtxt(folder, digests)
