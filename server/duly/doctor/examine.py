"""What of a machine matters to duly, looked at one thing after another: each is ok, or to be known, or wrong, with what
to do about it. Nothing here changes anything, loads a model of the repository or opens a port.
"""

import ctypes
import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from duly import compiled
from duly.access.errors import AccessError
from duly.access.key_set import read_keys
from duly.access.policy import Policy, read_policy
from duly.access.tls_files import certificate_of, read_tls
from duly.cgroups import group_settings
from duly.config import ServerConfig
from duly.config_sources import ConfigError, load_config
from duly.cpus import usable_cpus
from duly.default_lanes import default_lanes
from duly.descriptors import KEPT_BACK, RAISED_MAX
from duly.doctor.accelerators import examine_gpus, examine_providers
from duly.doctor.finding import Finding, Level
from duly.energy.watch import EnergyWatch
from duly.models.manifest import ManifestError
from duly.models.repository import NotARepository, Repository
from duly.models.trust import Trust, trust_of
from duly.nvml.library import Library
from duly.realtime import lane_cpus, rights, wakefulness
from duly.runtime.worker_groups import NoGroups, find_home
from duly.settings import option_name
from duly.worker import confine, kernel, landlock, seccomp
from duly.worker.errors import BackendError
from duly.worker.memory import memory_bytes_max
from duly.worker.ort_installed import check_installed

_PYTHON_MIN = (3, 11)
_SHARED_MEMORY_BYTES_MIN = 256 << 20
_COMMAND_SECONDS_MAX = 10.0
_CERTIFICATE_DAYS_MIN = 7
_PACKAGES = ("grpcio", "protobuf", "numpy", "opencv-python-headless", "uvloop")
_ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-webgpu")
_ASK_PROVIDERS = (
    "import os; os.environ['ORT_DISABLE_TELEMETRY'] = '1'; "  # else importing it writes into the home folder
    "import onnxruntime; print(*onnxruntime.get_available_providers(), sep=', ')"
)
_TFD_CANCEL_ON_SET = 3  # TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, linux/timerfd.h
_STA_UNSYNC = 0x40  # linux/timex.h
_FACTS = Path("/proc/sys")


def examine(settings: Mapping[str, object], file: Path | None, environ: Mapping[str, str]) -> list[Finding]:
    """Looks at everything, with the settings that `duly serve` would have. A look that fails is a finding itself."""
    found, config = _settings(settings, file, environ)
    looks: list[Callable[[], list[Finding]]] = [
        _python,
        _packages,
        _compiled,
        _providers,
        lambda: _access(config),
        lambda: _isolation(config),
        _groups,
        lambda: _descriptors(config),
        _memory,
        _shared_memory,
        _locked_memory,
        _cpus,
        lambda: _real_time(config),
        _wall_clock,
        _clock_source,
        lambda: _accelerators(config),
        _gpus,
        _energy,
        _hard_links,
    ]
    for look in looks:
        try:
            found += look()
        except Exception as error:  # one thing that cannot be looked at must not hide the others
            name = getattr(look, "__name__", "look").strip("_").replace("_", " ")
            found.append(Finding(name, Level.WARNING, f"cannot be looked at: {type(error).__name__}: {error}"))
    return found


def worst(findings: list[Finding]) -> Level:
    levels = list(Level)
    return max((finding.level for finding in findings), key=levels.index, default=Level.OK)


# ---- what is installed and set ----


def _settings(
    settings: Mapping[str, object], file: Path | None, environ: Mapping[str, str]
) -> tuple[list[Finding], ServerConfig | None]:
    try:
        config, with_models = _loaded(settings, file, environ)
    except ConfigError as error:
        advice = "duly serve would not start with it"
        return [Finding("settings", Level.PROBLEM, line, advice) for line in str(error).splitlines()], None
    without = f"no folder of models was given; with {option_name('models')} DIR it is looked at, too"
    found = [Finding("settings", Level.OK, "all of them are right" if with_models else without)]
    try:
        trust_of(config)
    except (OSError, UnicodeDecodeError, ManifestError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        found.append(Finding("manifest_keys", Level.PROBLEM, f"{config.manifest_keys}: {reason}", "mend the file"))
    if not with_models:
        return found, config
    try:
        versions, problems = Repository(config.models).scan()
    except NotARepository as error:
        return [
            *found,
            Finding("models", Level.PROBLEM, str(error), "name the folder above the models' folders"),
        ], config
    for problem in problems:
        level = Level.WARNING if problem.harmless else Level.PROBLEM
        found.append(Finding("models", level, problem.reason, "duly models check tells more"))
    count = f"{len(versions)} versions in {config.models}"
    if versions:
        found.append(Finding("models", Level.OK, count))
    else:
        found.append(Finding("models", Level.PROBLEM, count, "put them there as NAME/VERSION/model.onnx"))
    return found, config


def _loaded(settings: Mapping[str, object], file: Path | None, environ: Mapping[str, str]) -> tuple[ServerConfig, bool]:
    """Returns the settings, and whether a folder of models is among them: the others count without one, too. Raises
    ConfigError.
    """
    try:
        return load_config(settings, file, environ), True
    except ConfigError as error:
        if "models" in settings or not all(line.startswith("models:") for line in str(error).splitlines()):
            raise
    return load_config({**settings, "models": "."}, file, environ), False


def _python() -> list[Finding]:
    release = f"{platform.python_version()} on {kernel.MACHINE}, Linux {platform.release()}"
    if sys.version_info < _PYTHON_MIN:
        return [Finding("python", Level.PROBLEM, release, "use Python 3.11 or newer")]
    return [Finding("python", Level.OK, release)]


def _packages() -> list[Finding]:
    there = {name: version for name in _PACKAGES if (version := _installed(name))}
    missing = [name for name in _PACKAGES if name not in there]
    text = ", ".join(f"{name} {version}" for name, version in there.items())
    if missing:
        advice = "pip install 'duly[cpu]', or 'duly[gpu]' for an NVIDIA GPU"
        return [Finding("packages", Level.PROBLEM, f"{', '.join(missing)} missing; {text}", advice)]
    return [Finding("packages", Level.OK, text)]


def _compiled() -> list[Finding]:
    told = compiled.told()
    if told in ("yes", "no"):
        more = "" if told == "yes" else "; frames take less time with a wheel for this machine, or after make core"
        return [Finding("compiled", Level.OK, f"{told}{more}")]
    return [Finding("compiled", Level.WARNING, told, "install duly again, or make core once more")]


def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _providers() -> list[Finding]:
    try:
        check_installed()
    except BackendError as error:
        return [Finding("onnxruntime", Level.PROBLEM, str(error), "install one of them")]
    installed = ", ".join(f"{name} {version}" for name in _ONNXRUNTIMES if (version := _installed(name)))
    # In a process of its own, as the serving process never imports it, and drivers may hang or crash.
    asked = _output([sys.executable, "-P", "-c", _ASK_PROVIDERS])
    if asked is None:
        return [Finding("onnxruntime", Level.PROBLEM, f"{installed} cannot be imported", "install it again")]
    return [Finding("onnxruntime", Level.OK, f"{installed}: {asked}")]


def _access(config: ServerConfig | None) -> list[Finding]:
    """The policy and the files of TLS, which the server reads as it starts."""
    found = []
    if config is not None and config.policy is not None:
        try:
            policy = read_policy(config.policy)
            found.append(Finding("policy", Level.OK, f"principals in {config.policy}: {len(policy.principal)}"))
            found += _keys_of_tokens(policy)
        except AccessError as error:
            found += [Finding("policy", Level.PROBLEM, line, "mend the file") for line in str(error).splitlines()]
    if config is not None and config.tls_cert is not None and config.tls_key is not None:
        try:
            contents = read_tls(config.tls_cert, config.tls_key, config.tls_client_ca)
            expires_unix_s = certificate_of(contents.certificates).expires_unix_s
        except AccessError as error:
            return [*found, Finding("TLS", Level.PROBLEM, str(error), "mend the file")]
        days = (expires_unix_s - time.time()) / 86400
        text = f"{config.tls_cert} is good for {days:.1f} days"
        if days < _CERTIFICATE_DAYS_MIN:
            found.append(
                Finding("TLS", Level.WARNING, text, "replace it and its key; the server takes them up by itself")
            )
        else:
            found.append(Finding("TLS", Level.OK, text))
    return found


def _keys_of_tokens(policy: Policy) -> list[Finding]:
    """The keys of JWTs. The server starts without those behind a URL, and lets nobody in by a JWT meanwhile."""
    if policy.jwt is None:
        return []
    place = policy.jwt.jwks
    try:
        return [Finding("keys of tokens", Level.OK, f"public keys in {place}: {len(read_keys(place))}")]
    except AccessError as error:
        level = Level.WARNING if "://" in place else Level.PROBLEM
        return [Finding("keys of tokens", level, str(error), "no JWT can be checked without them")]


# ---- what holds a worker ----


def _isolation(config: ServerConfig | None) -> list[Finding]:
    version = landlock.abi()
    have = f"Landlock {version or 'none'}, seccomp {'yes' if seccomp.available() else 'no'}"
    if config is not None and config.sandbox == "off":
        return [Finding("isolation", Level.WARNING, f"switched off; {have}", "set sandbox to auto or require")]
    if wanting := confine.lacking():
        level = Level.PROBLEM if config is not None and config.sandbox == "require" else Level.WARNING
        advice = "use a kernel, or a profile of the container, that has it; serve only models that you trust"
        return [Finding("isolation", level, each, advice) for each in wanting]
    return [Finding("isolation", Level.OK, f"{have}: workers are confined to their model")]


def _groups() -> list[Finding]:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    unified = any(line.startswith("0::") for line in lines)
    split = any(not line.startswith("0::") for line in lines)
    version = "1 and 2" if unified and split else "2" if unified else "1"
    limits = [text.strip() for text in group_settings("memory", "memory.max", "memory.limit_in_bytes")]
    bounded = [int(text) for text in limits if text.isdigit() and int(text) < 1 << 60]
    memory = f"memory {min(bounded):,} bytes" if bounded else "no limit of memory"
    try:
        home = find_home()
        own = f"workers get their own: {' '.join(home.controllers)}" + (f", no {home.missing}" if home.missing else "")
    except NoGroups as error:
        own = f"workers get none of their own: {error}"
    return [Finding("control groups", Level.OK, f"version {version}, {memory}; {own}")]


def _hard_links() -> list[Finding]:
    if (_FACTS / "fs/protected_hardlinks").read_text().strip() == "0":
        text = "anybody may make hard links to files of others"
        return [Finding("hard links", Level.WARNING, text, "sysctl fs.protected_hardlinks=1")]
    return []


# ---- what there is of everything ----


def _descriptors(config: ServerConfig | None) -> list[Finding]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limit = RAISED_MAX if hard == resource.RLIM_INFINITY else min(hard, RAISED_MAX)
    streams = config.streams_max if config is not None else ServerConfig.model_fields["streams_max"].default
    text = f"{limit} open files for {streams} streams and {KEPT_BACK} kept back"
    if limit < streams + 2 * KEPT_BACK:
        advice = "raise the hard limit: ulimit -Hn, LimitNOFILE= of systemd or --ulimit nofile= of docker"
        return [Finding("descriptors", Level.WARNING, text, advice)]
    return [Finding("descriptors", Level.OK, text)]


def _memory() -> list[Finding]:
    facts = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    swap = int(facts.get("SwapTotal", "0 kB").split()[0])
    text = f"{memory_bytes_max():,} bytes for this process"
    if swap:
        advice = "a page that was swapped out costs a deadline: swapoff -a, or memory.swap.max = 0 in the control group"
        return [Finding("memory", Level.WARNING, f"{text}, and {swap * 1024:,} of swap", advice)]
    return [Finding("memory", Level.OK, text)]


def _shared_memory() -> list[Finding]:
    """The regions of workers are memfds, which no size of /dev/shm bounds; some libraries use it."""
    try:
        state = os.statvfs("/dev/shm")
    except OSError:
        return [Finding("shared memory", Level.OK, "no /dev/shm, which duly itself does not use")]
    free = state.f_bavail * state.f_frsize
    if free < _SHARED_MEMORY_BYTES_MIN:
        text = f"{free:,} bytes in /dev/shm; duly itself uses none of it, but libraries of providers may"
        return [Finding("shared memory", Level.OK, text)]
    return [Finding("shared memory", Level.OK, f"{free:,} bytes in /dev/shm")]


def _locked_memory() -> list[Finding]:
    soft = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    text = "no limit" if soft == resource.RLIM_INFINITY else f"{soft:,} bytes"
    lanes = default_lanes()
    if soft != resource.RLIM_INFINITY and soft < _SHARED_MEMORY_BYTES_MIN and lanes[0].startswith("cuda"):
        return [Finding("locked memory", Level.WARNING, text, "pinning for a GPU may be refused: ulimit -l unlimited")]
    return [Finding("locked memory", Level.OK, text)]


def _cpus() -> list[Finding]:
    there, mine, usable = os.cpu_count() or 1, len(os.sched_getaffinity(0)), usable_cpus()
    text = f"{usable} usable, of {there} in the machine and {mine} by affinity"
    if usable < 2:
        advice = "a worker and the server share it, so that each makes the other late: give it two"
        return [Finding("CPUs", Level.WARNING, text, advice)]
    return [Finding("CPUs", Level.OK, text)]


def _real_time(config: ServerConfig | None) -> list[Finding]:
    """What of it could be had. It is only wanting where it is asked for."""
    may = rights.look()
    taken = {number for entry in config.cpus for number in lane_cpus.parse(entry)} if config is not None else set()
    asked = config is not None and config.realtime
    beside = len(taken - os.sched_getaffinity(0))
    found = [
        Finding("real time", Level.PROBLEM, each.what, each.remedy)
        if asked
        else Finding("real time", Level.OK, f"{option_name('realtime')} could not be had: {each.what}", each.remedy)
        for each in rights.lacking(may, beside)
    ]
    if not found:
        text = "it can be had" if asked else f"{option_name('realtime')} could be had"
        found.append(Finding("real time", Level.OK, f"{text}: SCHED_FIFO, locked memory, {wakefulness.WAKEFULNESS}"))
    if may.runtime_us < 0:
        text = "kernel.sched_rt_runtime_us is -1: a real-time thread that spins has its processor for good"
        level = Level.WARNING if asked else Level.OK
        found.append(Finding("real time", level, text, "sysctl kernel.sched_rt_runtime_us=950000"))
    return found


def _accelerators(config: ServerConfig | None) -> list[Finding]:
    try:
        check_installed()
        trust = trust_of(config) if config is not None else Trust()
    except (BackendError, OSError, UnicodeDecodeError, ManifestError):
        return []  # which is a finding of its own already
    return examine_providers(config.lanes if config is not None else (), trust)


def _gpus() -> list[Finding]:
    return examine_gpus(Library())


def _energy() -> list[Finding]:
    """A server serves as well without it, so that nothing about it is a warning."""
    watch = EnergyWatch()
    watch.look()
    found = [Finding("energy", Level.OK, f"counted by {', '.join(sorted(watch.joules))}")] if watch.joules else []
    return found + [Finding("energy", Level.OK, f"not available: {reason}", advice) for reason, advice in watch.missing]


# ---- clocks ----


class _Timex(ctypes.Structure):
    """The beginning of struct timex (adjtimex(2)), and room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_long * 32),
    )


def _wall_clock() -> list[Finding]:
    libc = ctypes.CDLL(None, use_errno=True)
    found = []
    timer = libc.timerfd_create(0, os.O_CLOEXEC)  # CLOCK_REALTIME
    armed = timer >= 0 and libc.timerfd_settime(timer, _TFD_CANCEL_ON_SET, (ctypes.c_long * 4)(0, 0, 1 << 40, 0), None)
    if timer >= 0:
        os.close(timer)
    if timer < 0 or armed:
        text = "the kernel does not tell when the wall clock is set"
        found.append(Finding("wall clock", Level.WARNING, text, "ages of frames may be wrong for a while after it"))
    state = _Timex()
    synchronised = libc.adjtimex(ctypes.byref(state)) >= 0 and not state.status & _STA_UNSYNC
    if synchronised:
        found.append(Finding("wall clock", Level.OK, f"synchronised, within {state.maxerror / 1e3:g} ms"))
    else:
        advice = (
            "frames with capture times of other hosts are aged by their clock pings alone: run chrony or another NTP"
        )
        found.append(Finding("wall clock", Level.WARNING, "not known to be synchronised", advice))
    return found


def _clock_source() -> list[Finding]:
    source = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    try:
        name = source.read_text().strip()
    except OSError:
        return []
    if name in ("hpet", "acpi_pm", "jiffies", "refined-jiffies"):
        advice = "each look at the clock costs microseconds: find out why the kernel gave up the CPU's own (dmesg)"
        return [Finding("clock source", Level.WARNING, name, advice)]
    return [Finding("clock source", Level.OK, name)]


def _output(command: list[str]) -> str | None:
    """Returns what a command prints, without the last line break; None: it fails, is missing, or takes too long."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_COMMAND_SECONDS_MAX, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
