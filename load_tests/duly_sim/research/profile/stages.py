"""The stages of a frame's way through the server, and to which of them a sample of its stack belongs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the way. `places`: the files whose code is its, each with the functions that are; none: all of them."""

    name: str
    places: tuple[tuple[str, tuple[str, ...]], ...]


def _files(*names: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((name, ()) for name in names)


STAGES = (
    Stage("gRPC's read and write", _files("duly/rpc/duly_v1/inference_service.py")),
    Stage(
        "outcomes to bytes",
        (
            ("duly/rpc/duly_v1/codec.py", ("outcomes", "single", "_writer_for")),
            *_files("duly/rpc/duly_v1/outcome_writer.py", "duly/rpc/varints.py"),
        ),
    ),
    Stage(
        "bytes to frames",
        _files(
            "duly/rpc/duly_v1/codec.py",
            "duly/rpc/duly_v1/common_frames.py",
            "duly/rpc/message_bounds.py",
            "duly/rpc/duly_v1/taking.py",
            "duly/streams/inputs.py",
        ),
    ),
    Stage(
        "order, limits and verdicts of outcomes",
        (
            ("duly/streams/stream.py", ("deliver", "next", "written")),
            *_files(
                "duly/streams/outbox.py",
                "duly/streams/ordering.py",
                "duly/streams/results.py",
                "duly/streams/verdict.py",
                "duly/metrics.py",
            ),
        ),
    ),
    Stage("place, clock and limits of frames", _files("duly/streams/")),
    Stage("scheduler: learning of run times", _files("duly/core/timing/")),
    Stage("scheduler: all else", _files("duly/core/")),
    Stage(
        "flight recorder", _files("duly/runtime/flight_recorder.py", "duly/runtime/recording", "duly/runtime/record")
    ),
    Stage(
        "to the worker and back",
        _files(
            "duly/runtime/worker_process.py",
            "duly/runtime/slots.py",
            "duly/runtime/answers.py",
            "duly/worker/channel.py",
        ),
    ),
    Stage("driver", _files("duly/runtime/")),
)
LOOP = "event loop and all else"


def stage_of(stack: list[str]) -> str:
    """The stage of a sample: that of its innermost frame that belongs to any. `stack`: "function (file:line)", the
    outermost first.
    """
    for frame in reversed(stack):
        function, _, place = frame.partition(" (")
        for stage in STAGES:
            for file, functions in stage.places:
                if file in place and (not functions or function in functions):
                    return stage.name
    return LOOP
