"""The command `duly-load`: puts servers under load, duly and what it is compared with."""

from duly_load.cli.commands import Commands, run

cli = Commands(
    {
        "run": "duly_load.cli.run",
        "capacity": "duly_load.cli.capacity",
        "compare": "duly_load.cli.compare",
        "soak": "duly_load.cli.soak",
        "peers": "duly_load.cli.peers",
    },
    "Load tests of duly: what becomes of every frame, under loads that a seed makes again.",
)


def main() -> None:
    """Runs the command line and exits."""
    run(cli, "duly-load")


if __name__ == "__main__":
    main()
