"""The base of all tables of model.toml."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Unknown keys are errors, because a misspelt key must not silently do nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)
