"""Hostile clients of KServe's protocol beside a CRITICAL stream of duly's own, each held to what other attacks are."""

from tests.chaos.kserve_attacks import KSERVE_ATTACKS
from tests.chaos.row_attacks import show_attacks, write_models
from tests.chaos.verdict import Finding, Plan


async def show(plan: Plan, finding: Finding) -> None:
    names = [name for name in KSERVE_ATTACKS if plan.wants(name)]
    if names:
        await show_attacks(plan, finding, write_models(plan.folder / "models"), names)
