"""What exporters write is served right, or refused by words that say what to do, as docs/models.md shows.

`REWRITE_MODELS_PAGE=1 pytest tests/exporters -m ''` writes what duly does now into the page instead; the diff is then
for a person to judge. `make exporters` exports the models again.
"""

import os
from itertools import groupby
from pathlib import Path

import pytest

from tests.exporters.judged import STATED, Verdict, judge
from tests.exporters.page import PAGE, rewritten, section, sections
from tests.exporters.zoo import MODELS, Exported, exported

BY_TOOL = {tool: list(models) for tool, models in groupby(exported(), lambda each: each.tool)}
FEW = 8
"""Tools of which there are more models are tried by `make test-thorough`."""
BYTES_MAX = 2_000_000
"""What the models may take in the repository, all together."""
WAYS_OUT = ("[[input]]", "[[output]]", "constants", "batched", "batch_axis", "batch_sizes", "export")
"""What a refusal may advise."""


def way_out_is_named(model: Exported, bare: Verdict) -> bool:
    """Whether a refusal names what is right: a key of the model.toml that helps, where one does."""
    stated = [key for key in WAYS_OUT if key in model.toml]
    return any(key in words for key in stated or WAYS_OUT for words in (bare.refused, *bare.notes))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "tool", [pytest.param(tool, marks=[pytest.mark.thorough] * (len(models) > FEW)) for tool, models in BY_TOOL.items()]
)
async def test_what_is_exported_is_served_right_or_refused_by_words(tool: str, tmp_path: Path) -> None:
    models = BY_TOOL[tool]
    verdicts = await judge(models, tmp_path / "models")
    told = section(tool, models, verdicts)
    if os.environ.get("REWRITE_MODELS_PAGE"):
        PAGE.write_text(rewritten(PAGE.read_text("utf-8"), tool, told), "utf-8")
    wrong = [f"{name}: {verdict.wrong}" for name, verdict in verdicts.items() if verdict.wrong]
    for model in models:
        bare, stated = verdicts[model.name], verdicts.get(model.name + STATED)
        if bare.refused and not way_out_is_named(model, bare):
            wrong.append(f"{model.name}: refused without a way out: {bare.refused} {'; '.join(bare.notes)}")
        if stated is not None and stated.refused:
            wrong.append(f"{model.name}: refused with its model.toml: {stated.refused}")
    assert not wrong, "\n".join(wrong)
    assert sections(PAGE.read_text("utf-8")).get(tool) == told, "docs/models.md tells otherwise"


def test_the_models_are_small() -> None:
    assert sum(file.stat().st_size for file in MODELS.rglob("*") if file.is_file()) < BYTES_MAX


def test_the_page_has_every_tool_once_and_no_other() -> None:
    assert [*sections(PAGE.read_text("utf-8"))] == [*BY_TOOL]
