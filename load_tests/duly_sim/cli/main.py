"""The command `duly-sim`: duly's scheduler without a server."""

from importlib.util import find_spec

from duly import compiled
from duly_load.cli.commands import Commands, run

COMMANDS = {"run": "duly_sim.cli.run", "replay": "duly_sim.cli.replay"}
RESEARCH = {
    "grid": "duly_sim.research.grid.command",
    "sim-vs-live": "duly_sim.research.sim_vs_live.command",
    "bench": "duly_sim.research.bench.command",
    "profile": "duly_sim.research.profile.command",
}
"""Commands that measure duly itself; only a checkout has them."""

cli = Commands(
    COMMANDS | (RESEARCH if find_spec("duly_sim.research") else {}),
    "The scheduler without a server: what it does under virtual time, beside published policies.",
)


def main() -> None:
    """Runs the command line and exits."""
    compiled.choose()
    run(cli, "duly-sim")


if __name__ == "__main__":
    main()
