"""`duly serve` whose workers are started as `lying_worker`: all else is the server as it is."""

from duly.cli import main
from duly.runtime import worker_command as real
from duly.runtime import worker_process

WORKER, LIAR = "duly.worker.main", "tests.chaos.lying_worker"
_command = real.worker_command


def _lying(*arguments: object, **options: object) -> list[str]:
    command: list[str] = _command(*arguments, **options)  # type: ignore[arg-type]
    return [LIAR if part == WORKER else part for part in command]


if __name__ == "__main__":
    for module in (real, worker_process):
        if hasattr(module, "worker_command"):
            module.worker_command = _lying
    main()
