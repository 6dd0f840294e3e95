"""How a worker is started so that it imports what the server imports, wherever the server was started.

Python puts the working folder first on the import path of `python -m`, and an empty entry of PYTHONPATH (which
`PYTHONPATH=$PYTHONPATH:/opt/lib` has where there was nothing before) means the working folder, too. A signal.py or
numpy.py that lies there would be run in place of the real one.
"""

import os
import sys
from collections.abc import Mapping

import duly

_INSTALLED = ("site-packages", "dist-packages")


def worker_command(descriptor: int) -> list[str]:
    """Returns the command of a worker that inherits its end of the socket pair as `descriptor`."""
    return [sys.executable, "-P", "-m", "duly.worker.main", str(descriptor), str(os.getpid())]


def worker_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment of a worker: `environ` with a PYTHONPATH that does not name the working folder, but does
    name the folder that duly itself was imported from, where that is none of an installation.

    NumPy's library of linear algebra starts threads as it is imported, which a worker has no use for, and which would
    be there before it is confined. Nor has it a use for plugins of pydantic, which are looked for in every package.
    """
    given = filter(None, environ.get("PYTHONPATH", "").split(os.pathsep))
    entries = [os.path.join(_here(), entry) for entry in given]
    entries = [entry for entry in entries if os.path.isabs(entry) and os.path.normpath(entry) != _here()]
    (package,) = duly.__path__
    folder = os.path.dirname(package)
    if os.path.basename(folder) not in _INSTALLED and folder not in entries:
        entries.append(folder)
    return {
        **environ,
        "PYTHONPATH": os.pathsep.join(entries),
        "OPENBLAS_NUM_THREADS": "1",
        "PYDANTIC_DISABLE_PLUGINS": "__all__",
    }


def _here() -> str:
    """Returns the working folder; nothing where it was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""
