"""Compiles what `duly.compiled` names with mypyc, in place: `python compile_modules.py`. It needs a C compiler.

`python compile_modules.py --undo` goes back to Python.
"""

import shutil
import subprocess
import sys
from pathlib import Path

SERVER = Path(__file__).parent / "server"


def compile_in(server: Path) -> list[Path]:
    """Compiles the modules of the packages in the folder `server`, and returns the files that were made. Raises
    CalledProcessError, with what the compilers said, where that cannot be done.
    """
    undo(server)
    listed = [sys.executable, "-c", "from duly.compiled import sources; print(*sources(), sep='\\n')"]
    found = subprocess.run(listed, cwd=server, check=True, capture_output=True, text=True).stdout.splitlines()
    sources = [str(Path(source).relative_to(server.resolve())) for source in found]
    try:
        command = [sys.executable, "-m", "mypyc", *sources]
        subprocess.run(command, cwd=server, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    finally:
        shutil.rmtree(server / "build", ignore_errors=True)
    return _made(server)


def undo(server: Path) -> None:
    """Removes what was compiled."""
    for file in _made(server):
        file.unlink()


def _made(server: Path) -> list[Path]:
    """The compiled modules, and what they share, which lies beside the packages."""
    return sorted(set(server.glob("*__mypyc*.so")) | set((server / "duly").rglob("*.so")))


def main() -> int:
    if sys.argv[1:] == ["--undo"]:
        undo(SERVER)
        return 0
    try:
        compile_in(SERVER)
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"{error.stdout or ''}{error.stderr or ''}{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
