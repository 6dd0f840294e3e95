"""Clients that connect and vanish at any byte, and slow readers, beside a CRITICAL stream."""

from tests.chaos.row_attacks import show_attacks, write_models
from tests.chaos.verdict import Finding, Plan


async def show(plan: Plan, finding: Finding) -> None:
    models = write_models(plan.folder / "models")
    wanted = plan.of(1_000, 10_000)
    await show_attacks(plan, finding, models, ["vanish", "slow_readers"])
    vanished = int(finding.counts.get("vanished", 0))
    while vanished < wanted and not finding.failures:
        await show_attacks(plan, finding, models, ["vanish"], wanted=wanted - vanished)
        now = int(finding.counts["vanished"])
        if now == vanished:
            break
        vanished = now
    finding.check(vanished >= wanted, f"{vanished} clients vanished, {wanted} were wanted")
