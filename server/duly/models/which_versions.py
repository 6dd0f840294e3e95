"""Which versions of a model are served."""

from typing import Annotated

from pydantic import Field, PositiveInt

from duly.models.strict import Strict

VERSIONS_NAMED_MAX = 1024
"""No model.toml names more versions."""


class Versions(Strict):
    """Which versions a server loads when it starts, and which it may load at all."""

    loaded: Annotated[int, Field(ge=0)] = 1
    """So many are loaded at the start, the newest first, of which the newest is active; 0: all of them, as far as
    versions_max of the server allows."""
    only: Annotated[tuple[PositiveInt, ...], Field(max_length=VERSIONS_NAMED_MAX)] = ()
    """The versions that may be served; the others are passed over. Empty: all of them."""
