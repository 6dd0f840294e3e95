"""Makes the message packages that no wheel ships, for a ROS 2 that was installed with pip.

A ROS distribution has vision_msgs and audio_common_msgs as packages, and builds duly_msgs with colcon (`interfaces`
holds a package for it). With pip there is neither. So this makes them from their definitions by the distribution's own
generators, with the same type hashes, and puts them where the other packages are. It needs a C and a C++ compiler.

What the generators give (the C structs, their CDR for Fast DDS, their description, the conversion from and to Python)
is linked into the one extension module that rclpy imports. Fast DDS looks for parts of it by the names of libraries,
which are links to the module.
"""

import contextlib
import io
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.util import find_spec
from pathlib import Path

INTERFACES = Path(__file__).parent / "interfaces"
_SUPPORTS = ("rosidl_typesupport_fastrtps_c", "rosidl_typesupport_introspection_c")
_NEEDS = {
    "audio_common_msgs": ("std_msgs", "builtin_interfaces"),
    "duly_msgs": ("std_msgs", "builtin_interfaces"),
    "vision_msgs": ("geometry_msgs", "std_msgs", "builtin_interfaces"),
}
"""Packages that are made, and those that their messages use."""


def missing() -> list[str]:
    """Names of the message packages that cannot be imported."""
    return [name for name in _NEEDS if find_spec(name) is None]


def make(name: str, into: Path) -> None:
    """Makes package `name` and puts it into the folder `into`, which is on Python's path. Raises OSError where there is
    no compiler, and CalledProcessError, after the compiler's own words, where it fails.
    """
    with tempfile.TemporaryDirectory(prefix="duly-messages-") as folder:
        made = Path(folder) / name
        with contextlib.redirect_stdout(io.StringIO()):  # the generators tell each file
            sources = _generate(name, made)
        _compile(name, made, sources)
        shutil.rmtree(into / name, ignore_errors=True)
        shutil.copytree(made, into / name, ignore=_not_python)
    for support in _SUPPORTS:
        link = Path(sys.prefix) / "lib" / f"lib{name}__{support}.so"
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(into / name / _module(name), link.parent))


def _module(name: str) -> str:
    return f"{name}_s__rosidl_typesupport_c{sysconfig.get_config_var('EXT_SUFFIX')}"


def _not_python(folder: str, names: list[str]) -> set[str]:
    kept = (".py", sysconfig.get_config_var("EXT_SUFFIX"))
    return {
        name for name in names if not name.endswith(kept) and not (name == "msg" and (Path(folder) / name).is_dir())
    }


def _generate(name: str, made: Path) -> list[Path]:
    """Runs the generators into the folder `made`; returns the C and C++ files."""
    os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)
    from rosidl_adapter.msg import convert_msg_to_idl
    from rosidl_generator_c.cli import GenerateC
    from rosidl_generator_py.cli import GeneratePython
    from rosidl_generator_type_description.cli import HashTypeDescription
    from rosidl_typesupport_c.cli import GenerateCTypesupport
    from rosidl_typesupport_fastrtps_c.cli import GenerateFastRTPSCTypesupport
    from rosidl_typesupport_introspection_c.cli import GenerateIntrospectionCTypesupport

    (made / "msg").mkdir(parents=True)
    files = []
    for definition in sorted((INTERFACES / name / "msg").glob("*.msg")):
        relative = definition.relative_to(INTERFACES / name)
        convert_msg_to_idl(INTERFACES / name, name, relative, made / "msg")
        files.append(f"{made}:{relative.with_suffix('.idl')}")
    shares = [str(Path(sys.prefix) / "share" / need) for need in _NEEDS[name]]
    hashes = HashTypeDescription("").generate_type_hashes(name, files, shares, made)
    GenerateC("").generate(name, files, shares, made, hashes)
    GenerateFastRTPSCTypesupport("").generate(name, files, shares, made)
    GenerateIntrospectionCTypesupport("").generate(name, files, shares, made)
    GenerateCTypesupport("", typesupport_implementations=list(_SUPPORTS)).generate(name, files, shares, made)
    GeneratePython("", typesupport_implementations=["rosidl_typesupport_c"]).generate(name, files, shares, made)
    return [path for path in made.rglob("*") if path.suffix in (".c", ".cpp")]


def _compile(name: str, made: Path, sources: list[Path]) -> None:
    import numpy

    prefix = Path(sys.prefix)
    above = made.parent
    includes = [
        above,
        prefix / "include",
        numpy.get_include(),
        sysconfig.get_path("include"),
        *(prefix / "include").glob("*"),
    ]
    flags = [f"-I{path}" for path in includes] + ["-fPIC", "-O1", "-w", "-DROS_PACKAGE_NAME=" + f'"{name}"']
    objects = []
    for source in sources:
        compiler = os.environ.get("CC", "cc") if source.suffix == ".c" else os.environ.get("CXX", "c++")
        standard = "-std=gnu11" if source.suffix == ".c" else "-std=c++17"
        objects.append(source.with_suffix(source.suffix + ".o"))
        subprocess.run([compiler, standard, *flags, "-c", source, "-o", objects[-1]], check=True)
    kinds = ("rosidl_generator_c", "rosidl_generator_py", "rosidl_typesupport_c", *_SUPPORTS)
    libraries = [f"-l{need}__{kind}" for need in _NEEDS[name] for kind in kinds]
    libraries += [
        f"-l{library}" for library in ("rosidl_runtime_c", "rosidl_typesupport_c", *_SUPPORTS, "fastcdr", "rmw")
    ]
    target = made / _module(name)
    where = [f"-L{prefix / 'lib'}", f"-Wl,-rpath,{prefix / 'lib'}"]
    linker = os.environ.get("CXX", "c++")
    subprocess.run(
        [linker, "-shared", *objects, *where, *libraries, "-lrosidl_typesupport_fastrtps_cpp", "-o", target], check=True
    )
