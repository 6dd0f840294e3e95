"""The server's settings: every one with its bounds and default. `config_sources` puts them together.

Numbers are plain; the unit is in the name.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from duly.accelerators import is_lane, lanes_like
from duly.addresses import is_local, local_path, split_host_port
from duly.realtime import lane_cpus
from duly.settings import BYTES_IN_FLIGHT, PAYLOAD_BYTES

_UNIX_PATH_BYTES_MAX = 107  # the length of Linux's sun_path less its final zero
_LANES_MAX = 64
_SHA256 = re.compile(r"[0-9A-Fa-f]{64}")


def _local_name_or_none(name: str | None) -> str | None:
    if name is not None:
        path = local_path(name)
        if not path.startswith("/"):
            raise ValueError("should be a name of letters, digits, '.', '_' and '-', or an absolute path")
        if len(os.fsencode(path)) > _UNIX_PATH_BYTES_MAX:
            raise ValueError(f"should be a path of at most {_UNIX_PATH_BYTES_MAX} bytes, is {path}")
    return name


def _host_port(address: str | None) -> str | None:
    if address is not None:
        split_host_port(address)
    return address


def _listen_address(address: str) -> str:
    if not address.startswith("unix:"):
        split_host_port(address)
    elif not 0 < len(os.fsencode(address.removeprefix("unix:"))) <= _UNIX_PATH_BYTES_MAX:
        raise ValueError(f"should be unix:PATH with a path of 1 to {_UNIX_PATH_BYTES_MAX} bytes")
    return address


def _listen_address_or_none(address: str | None) -> str | None:
    return None if address is None else _listen_address(address)


def _existing(path: Path) -> Path:
    """What a folder holds, and what a file is, the repository says."""
    if not path.exists():
        raise ValueError("should be an existing folder")
    return path


def _existing_folder(path: Path | None) -> Path | None:
    if path is not None and not path.is_dir():
        raise ValueError("should be an existing folder")
    return path


def _split_commas(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _lane_names(lanes: tuple[str, ...]) -> tuple[str, ...]:
    for lane in lanes:
        if not is_lane(lane):
            raise ValueError(f"should be names such as {lanes_like(lane)}, and not {lane!r}")
    if len(set(lanes)) != len(lanes):
        raise ValueError("should name each lane once")
    if len(lanes) > _LANES_MAX:
        raise ValueError(f"should be at most {_LANES_MAX} lanes")
    return lanes


def _lane_cpus(entries: tuple[str, ...]) -> tuple[str, ...]:
    lane_cpus.check(entries)
    return entries


def _absolute(folders: tuple[Path, ...]) -> tuple[Path, ...]:
    if not all(folder.is_absolute() and folder.is_dir() and folder != Path("/") for folder in folders):
        raise ValueError("should be existing folders with absolute paths")
    return folders


def _engine_cache(folder: str) -> str:
    if folder not in ("auto", "off") and (not Path(folder).is_absolute() or Path(folder) == Path("/")):
        raise ValueError("should be the absolute path of a folder, auto or off")
    return folder


def _digests(digests: tuple[str, ...]) -> tuple[str, ...]:
    if not all(_SHA256.fullmatch(digest) for digest in digests):
        raise ValueError("should be SHA-256 digests, 64 hexadecimal digits each, as sha256sum prints them")
    return tuple(digest.lower() for digest in digests)


Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class Limit:
    """Marks a setting that bounds something, for the page of limits."""

    then: str
    """What happens at the limit."""
    metric: str = ""
    """Where operators see it; empty: in the log alone."""


class ServerConfig(BaseModel):
    """All settings of the server, checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    models: Annotated[Path, AfterValidator(_existing)]
    """Folder of the model repository: NAME/VERSION/*.onnx, and NAME/model.toml where a model needs one."""
    listen: Annotated[str, AfterValidator(_listen_address)] = "127.0.0.1:8500"
    """Where clients connect: HOST:PORT (port 0: any free one) or unix:PATH."""
    local: Annotated[str | None, AfterValidator(_local_name_or_none)] = None
    """Where clients on this machine find the server to share memory with it: a name, such as cameras, or the absolute
    path of a UNIX socket; not set: they do not."""
    admin_listen: Annotated[str | None, AfterValidator(_listen_address_or_none)] = None
    """Where admin acts are taken (load, unload, activate, drain), HOST:PORT or unix:PATH, and then nowhere else; not
    set: at listen, from this machine alone unless there is a policy."""
    policy: Path | None = None
    """TOML file that says who callers are and what each may do; read again when it changes. Not set: nobody is asked
    who he is."""
    tls_cert: Path | None = None
    """PEM file of the server's certificate, with those between it and its CA; it and the other files of TLS are read
    again when they change. Not set: plain text."""
    tls_key: Path | None = None
    """PEM file of the certificate's private key."""
    tls_client_ca: Path | None = None
    """PEM file of the CA that client certificates must be of; not set: clients need none."""
    socket_mode: Annotated[str | None, Field(pattern=r"^0?[0-7]{3}$")] = None
    """Mode of the UNIX sockets at listen and local, such as 0660; not set: as the umask has it."""
    socket_group: str | None = None
    """Group that the UNIX sockets at listen and local are given to."""
    audit_log: Path | None = None
    """File to which admin acts and refusals are appended as JSON lines, apart from the log."""
    metrics: Annotated[str | None, AfterValidator(_host_port)] = None
    """Where Prometheus scrapes, HOST:PORT; not set: metrics are not served."""
    lanes: Annotated[tuple[str, ...], BeforeValidator(_split_commas), AfterValidator(_lane_names)] = ()
    """Execution slots, such as cuda:0,cuda:1 or openvino:NPU, or cuda:0,cuda:0/2 for two on one GPU; not set: every
    NVIDIA GPU that the installed packages can use, or what the installed ONNX Runtime is made for, else cpu:0.
    docs/accelerators.md has all names."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """Intra-op threads of a worker on a CPU lane; 0: one less than the CPUs that the server may use by its affinity and
    its cgroup's quota, or as many as its lane has (cpus)."""
    cpus: Annotated[tuple[str, ...], BeforeValidator(_split_commas), AfterValidator(_lane_cpus)] = ()
    """Processors that lanes have for themselves, an entry for each lane in their order, such as 2-3,4-5 or 2+4; the
    server, and what else it starts, has the others. Not set: all run anywhere."""
    transport: Literal["lan", "wan"] = "lan"
    """lan keeps frames out of the transport's buffers, wan lets the buffers grow with the delay of the line."""
    streams_max: Annotated[
        int, Field(gt=0, le=65_536), Limit("further streams are refused: STREAMS_EXHAUSTED", "duly_streams_open")
    ] = 1024
    """Streams that may be open at once."""
    admission: Literal["enforce", "advise"] = "enforce"
    """What happens to streams with a stated period that could not be served in time beside the others: enforce refuses
    them and says what would fit, advise opens them with a warning."""
    advice: bool = True
    """Whether streams are told under overload how often their frames can be served, and later that there is room."""
    frames_in_flight_max: Annotated[
        int, Field(gt=0, le=65_536), Limit("further frames are SHED at once", "duly_outcomes_total")
    ] = 256
    """Frames of one stream that may be unanswered at any time."""
    bytes_in_flight_max: Annotated[
        int,
        Field(gt=0, le=2**40),
        Limit(
            "further frames are SHED at once; results beyond it that nobody reads are withheld", "duly_outcomes_total"
        ),
    ] = BYTES_IN_FLIGHT
    """Payload bytes of one stream that may be unanswered at any time."""
    payload_bytes_max: Annotated[
        int,
        Field(gt=0, le=2**40, validate_default=True),
        Limit(
            "frames and results of less critical streams give way, else further frames are SHED", "duly_payload_bytes"
        ),
    ] = PAYLOAD_BYTES
    """Payload bytes of all streams together that may be unanswered at any time."""
    local_bytes_max: Annotated[
        int,
        Field(gt=0, le=2**40),
        Limit("further local streams are refused: STREAMS_EXHAUSTED", "duly_shared_bytes"),
    ] = PAYLOAD_BYTES
    """Memory that may be shared with clients on this machine, of all streams together (local)."""
    principal_streams_max: Annotated[
        int,
        Field(ge=0, le=65_536),
        Limit("further streams of it are refused: STREAMS_EXHAUSTED", "duly_calls_failed_total"),
    ] = 0
    """Streams of one principal that may be open at once (of the policy, or an address of clients that show nothing);
    0: as many as of all."""
    principal_bytes_in_flight_max: Annotated[
        int, Field(ge=0, le=2**40), Limit("further frames of it are SHED at once", "duly_outcomes_total")
    ] = 0
    """Payload bytes of one principal's streams together that may be unanswered; 0: as many as of all."""
    critical_streams_max: Annotated[
        int, Field(ge=0, le=65_536), Limit("further ones are refused: STREAMS_EXHAUSTED", "duly_calls_failed_total")
    ] = 64
    """CRITICAL streams that clients without a credential may have open at once, all together."""
    critical_share_max: Annotated[
        float, Field(ge=0, le=1), Limit("further ones are refused: ADMISSION_REFUSED", "duly_calls_failed_total")
    ] = 0.75
    """Share of the lanes that CRITICAL streams may take where a client without a credential opens one more; it is not
    asked for under admission = "advise"."""
    budget_ms_max: Annotated[
        float,
        Field(gt=0, le=86_400_000, allow_inf_nan=False),
        Limit("the stream is refused: INVALID_OPEN; a frame is INVALID", "duly_outcomes_total"),
    ] = 600_000.0
    """Longest budget that a stream or frame may ask for."""
    kserve_budget_ms: Annotated[float, Field(gt=0, le=86_400_000, allow_inf_nan=False)] = 10_000.0
    """Budget of requests in KServe's protocol that state no timeout, for models whose model.toml states no
    default_budget_ms. It is no longer than budget_ms_max."""
    kserve_shared_memory: Literal["off", "own", "principal"] = "off"
    """Whether clients of KServe's protocol on this machine may register shared memory of theirs, and whose it is then:
    own, the connection's that registered it; principal, all connections' of the same principal and user. It needs
    listen at a loopback address or a UNIX socket."""
    drain_grace_s: Annotated[
        float, Field(ge=0, le=600, allow_inf_nan=False), Limit("what waits is SHED, what runs is FAILED")
    ] = 10.0
    """How long frames that wait or run may still take when the server is asked to stop."""
    load_timeout_s: Annotated[Seconds, Limit("the worker is killed and the version FAILED", "duly_version_state")] = (
        600.0
    )
    """How long a worker may take to load a model and warm it up. One that replaces another may take three times as long
    as the first one took, and 10 s."""
    versions_max: Annotated[
        int, Field(gt=0, le=1024), Limit("LoadModel is refused: VERSIONS_EXHAUSTED", "duly_calls_failed_total")
    ] = 8
    """Versions of one model that may be loaded at once."""
    versions_all_max: Annotated[
        int, Field(gt=0, le=65_536), Limit("LoadModel is refused: VERSIONS_EXHAUSTED", "duly_calls_failed_total")
    ] = 256
    """Versions of all models together that may be loaded at once."""
    watch: Literal["off", "load", "activate"] = "off"
    """What happens to a new version that comes into the repository while the server runs: nothing, it is loaded, or it
    is also activated; where its model.toml has [trial], it is tried on live frames first."""
    watch_settle_s: Seconds = 2.0
    """How long nothing in a model's folder must have changed before a new version in it is loaded."""
    batch_timeout_ms: Annotated[
        float,
        Field(gt=0, le=86_400_000, allow_inf_nan=False),
        Limit("the worker is killed and replaced, its batch FAILED", "duly_worker_restarts_total"),
    ] = 10_000.0
    """A worker is replaced when one of its batches takes longer than this and than 20 times its planned time, and
    sooner where its process is stopped, does nothing, or computes far beyond the plan."""
    sample: Annotated[Path | None, AfterValidator(_existing_folder)] = None
    """Folder where samples of frames are kept with their answers, drawn evenly from each stream; not set: none are."""
    sample_models: Annotated[tuple[str, ...], BeforeValidator(_split_commas)] = ("*",)
    """Patterns of the models whose frames are sampled."""
    sample_frames: Annotated[
        int,
        Field(gt=0, le=1_000_000),
        Limit("a frame that is drawn takes the place of another", "duly_samples_written_total"),
    ] = 64
    """How many frames of each stream are kept; frames of calls that are no streams are one stream a principal."""
    sample_run_frames: Annotated[
        int,
        Field(gt=0, le=4096),
        Limit("the next run of neighbours begins, which may be drawn or not", "duly_samples_written_total"),
    ] = 64
    """Of models that keep state, runs of so many neighbours are drawn, as many as sample_frames has room for and at
    least one: what follows a frame means nothing without it."""
    sample_streams_max: Annotated[
        int,
        Field(gt=0, le=65_536),
        Limit("samples of streams that ended give way, else nothing is drawn", "duly_samples_dropped_total"),
    ] = 256
    """Of how many streams there are samples at once."""
    sample_bytes_max: Annotated[
        int,
        Field(gt=0, le=2**50),
        Limit("samples of streams that ended give way, else nothing is drawn", "duly_samples_dropped_total"),
    ] = 2**30
    """What all samples may take on the disk."""
    learn: Annotated[Path | None, AfterValidator(_existing_folder)] = None
    """Folder where frames of models with [learning] are kept with their answers and labels, from which new versions are
    made while the server runs; needs the extra learn. Not set: models stay as they are."""
    learn_frames_per_s_max: Annotated[
        float,
        Field(gt=0, le=10_000, allow_inf_nan=False),
        Limit("further frames are answered and not kept", "duly_samples_dropped_total"),
    ] = 200.0
    """How many frames of one model that learns are kept a second."""
    learn_bytes_max: Annotated[
        int, Field(ge=1 << 20, le=2**50), Limit("the oldest frames are removed", "duly_samples_bytes")
    ] = 2**30
    """What the frames of one model that learns may take on the disk: five sixteenths of it all of them, as many those
    with labels, and the rest what the learner copies: old ones, and those of an attempt."""
    learn_age_s_max: Annotated[
        float, Field(gt=0, le=10 * 366 * 86_400, allow_inf_nan=False), Limit("older frames are removed")
    ] = 30 * 86_400.0
    """How long frames of models that learn are kept, and so how late a label may come."""
    learn_commands: bool = False
    """Whether model.toml may name a trainer of its own, which runs with the rights of the server: whoever writes to the
    repository can then run what he likes."""
    learn_memory_bytes_max: Annotated[
        int,
        Field(ge=256 << 20, le=2**50),
        Limit("the learner ends and is started again", "duly_learner_restarts_total"),
    ] = 4 << 30
    """Memory that the process that learns may have."""
    sandbox: Literal["auto", "require", "off"] = "auto"
    """Whether workers are confined to the files of their model, with no network, no other processes and no privileges:
    auto as far as the kernel can, require refuses to start where it cannot, off leaves them the server's rights."""
    worker_memory_bytes_max: Annotated[
        int, Field(ge=0, le=2**50), Limit("a load fails, or a batch is FAILED", "duly_outcomes_total")
    ] = 0
    """Memory that a worker may have beside its shared memory; 0: what the machine or the control group has, and no
    limit where an accelerator is used."""
    worker_device_memory_bytes_max: Annotated[
        int, Field(ge=0, le=2**50), Limit("a load fails, or a batch is FAILED", "duly_outcomes_total")
    ] = 0
    """Memory of its lane's GPU that a worker may take, where the provider can be told (CUDA, TensorRT, TensorRT-RTX,
    MIGraphX); 0: what placement leaves it. model.toml may say less."""
    lane_memory_bytes_max: Annotated[
        int, Field(ge=0, le=2**50), Limit("a load is refused, with the sum: LOAD_FAILED", "duly_version_state")
    ] = 0
    """Memory of each device that all models on its lanes may have there together, as measured when they are warm; 0:
    what the device has, less what others have of it."""
    cache_folders: Annotated[tuple[Path, ...], BeforeValidator(_split_commas), AfterValidator(_absolute)] = ()
    """Folders that workers may write to, for providers that keep a cache of their own, where options in model.toml name
    it; what engine_cache keeps needs none."""
    engine_cache: Annotated[str, AfterValidator(_engine_cache)] = "auto"
    """Folder where what providers compile is kept (engines of TensorRT, OpenVINO and others), with an absolute path;
    auto: one in the user's folder for caches; off: they compile at every load."""
    engine_cache_bytes_max: Annotated[
        int,
        Field(ge=1 << 20, le=2**50),
        Limit("engines that were not used for longest are removed", "duly_engines_total"),
    ] = 20 << 30
    """What kept engines may take on the disk."""
    engine_build_timeout_s: Annotated[
        Seconds, Limit("the worker is killed and the version FAILED", "duly_version_state")
    ] = 14_400.0
    """How long a worker may compile engines when it loads a model; load_timeout_s does not count meanwhile. One that
    computes nothing for five minutes is killed sooner."""
    libraries_sha256: Annotated[tuple[str, ...], BeforeValidator(_split_commas), AfterValidator(_digests)] = ()
    """SHA-256 of the shared libraries that models may name, such as plugin providers; others are not loaded."""
    manifests: Literal["off", "check", "require", "signed", "model-signing"] = "check"
    """check: a version's sha256sums, where there is one, lists all files that are read, and they hold that; require:
    each version has one; signed: it has a sha256sums.sig by one of manifest_keys, and covers model.toml; model-signing:
    each version has a model.sig of OpenSSF's model-signing by one of manifest_keys instead; off: nothing is read."""
    manifest_keys: Annotated[Path | None, Field(validate_default=True)] = None
    """File of the public keys whose signatures are trusted: Ed25519 as OpenSSH writes them, one a line, or for
    model-signing on an elliptic curve in PEM."""
    slow_reader_timeout_s: Annotated[
        Seconds, Limit("the stream ends: CLIENT_TOO_SLOW", "duly_streams_closed_total")
    ] = 10.0
    """A stream ends when its client has taken no outcome for this long while some were ready."""
    wake_ahead: bool = False
    """Whether the server stays awake, as long as that takes no more than half of a processor, while a short batch runs
    and shortly before the next frame of a stream with a stated period is due, so that none waits for a processor that
    sleeps."""
    copy_ahead: bool = True
    """Whether frames are copied to a GPU while it still runs the batch before."""
    realtime: bool = False
    """Whether the server and its workers run before all other processes (SCHED_FIFO), with their memory locked, and no
    processor of this machine sleeps, which costs power; with wake_ahead. It needs rights, and says which."""
    record: Path | None = None
    """File to record to what goes into the scheduler and what comes out; an existing file is replaced."""
    record_bytes_max: Annotated[
        int, Field(gt=0, le=2**40), Limit("recording stops and the server goes on", "duly_recorded_events_lost_total")
    ] = 2**30
    """Largest size of the recording; when it is full, recording stops and the server goes on."""
    flight_folder: Annotated[Path | None, AfterValidator(_existing_folder)] = None
    """Folder to which the newest part of what the scheduler was told and did is written when a worker ends unasked, the
    scheduler fails, or a CRITICAL stream misses many frames in a row; not set: only when SIGUSR1 or DumpRecording asks,
    to the system's folder for temporary files."""
    state_folder: Annotated[Path | None, AfterValidator(_existing_folder)] = None
    """Folder for what the server remembers when it starts again: which versions were active, and which did not pass
    their trials; not set: it begins with the newest version of each model."""
    compression: bool = False
    """Whether compressed messages of clients are taken (gzip, deflate). Small ones that unpack to much take much longer
    than others to take in, which all clients wait for. Off, they are refused: UNIMPLEMENTED."""
    log_format: Literal["auto", "console", "json"] = "auto"
    """Format of log lines; auto: console on a terminal, else json."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log lines that are written."""
    reflection: bool = True
    """Describe services and messages to clients such as grpcurl, which ask for them."""

    @field_validator("*", mode="before")
    @classmethod
    def _in_plain_characters(cls, value: object) -> object:
        """No setting needs control characters, and what is printed of one must not have them."""
        words = value if isinstance(value, list | tuple) else (value,)
        for word in words:
            if isinstance(word, str | Path) and any(ord(each) < 32 or ord(each) == 127 for each in str(word)):
                raise ValueError("should have no control characters")
        return value

    @field_validator("metrics")
    @classmethod
    def _beside_listen(cls, value: str | None, info: ValidationInfo) -> str | None:
        listen = info.data.get("listen", "unix:")
        if value is None or listen.startswith("unix:"):
            return value
        (host, port), (other_host, other_port) = split_host_port(value), split_host_port(listen)
        if port and port == other_port and (host == other_host or {host, other_host} & {"0.0.0.0", "::"}):
            raise ValueError(f"should have another port than listen, which is {listen}")
        return value

    @field_validator("cpus")
    @classmethod
    def _for_each_lane(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if lanes := info.data.get("lanes"):
            lane_cpus.of_lanes(lanes, value)
        return value

    @field_validator("manifest_keys")
    @classmethod
    def _for_signed(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if (manifests := info.data.get("manifests")) in ("signed", "model-signing") and value is None:
            raise ValueError(f"should name the file of trusted keys, as manifests is {manifests}")
        return value

    @model_validator(mode="after")
    def _protected(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key: should be set both or neither")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca: needs tls_cert and tls_key, too")
        if (self.socket_mode or self.socket_group) and not (self.listen.startswith("unix:") or self.local):
            raise ValueError(
                "socket_mode and socket_group: need a UNIX socket at listen, such as unix:/run/duly.sock, or local"
            )
        if self.kserve_shared_memory != "off" and not is_local(self.listen):
            raise ValueError(
                f"kserve_shared_memory: {self.listen} can be reached from elsewhere, where it is not certain whose "
                "memory a client names: listen at 127.0.0.1 or unix:PATH, or set it off"
            )
        if self.admin_listen is not None:
            if self.admin_listen == self.listen and not self.listen.endswith(":0"):
                raise ValueError("admin_listen: should be another address than listen")
            if self.policy is None and not is_local(self.admin_listen):
                raise ValueError(
                    f"admin_listen: {self.admin_listen} can be reached from elsewhere, and nothing proves who calls: "
                    "set policy, or use 127.0.0.1 or unix:PATH"
                )
        return self

    @model_validator(mode="after")
    def _learns_what_can_be_loaded(self) -> Self:
        if self.learn is not None and self.manifests in ("signed", "model-signing"):
            raise ValueError(
                f"learn: versions that are learnt cannot be signed, as a learner has no key, and manifests is "
                f"{self.manifests}, so that none of them could be loaded: set manifests to require, for which they get "
                "a sha256sums, or leave learn away and sign what you make of the frames that sample keeps"
            )
        return self

    @field_validator("payload_bytes_max")
    @classmethod
    def _holds_one_stream(cls, value: int, info: ValidationInfo) -> int:
        per_stream = info.data.get("bytes_in_flight_max", 0)
        if value < per_stream:
            raise ValueError(f"should be at least bytes_in_flight_max, which is {per_stream}")
        return value
