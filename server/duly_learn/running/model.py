"""A version of a model in a real worker process, as a server would run it: with its pre- and postprocessing, its
confinement and its warm-up. Nothing else serves from it.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from duly.agreement.measures import Outputs
from duly.core.events import DispatchBatch
from duly.core.types import Frame
from duly.models.contents import Fingerprint
from duly.models.repository import ModelVersion, with_labels
from duly.models.sizes import SizeLimits
from duly.models.spec import Signature, TensorSpec
from duly.runtime.held_frames import InputData
from duly.runtime.load_answers import Ready
from duly.runtime.outcome import Output
from duly.runtime.worker_launch import start_worker
from duly.runtime.worker_load import WorkerError
from duly.runtime.worker_port import BatchResult, NoRoom
from duly.runtime.worker_process import Worker
from duly.streams.errors import InvalidFrame
from duly.worker.dtypes import DTYPES, text_array
from duly.worker.text import read_texts
from duly_learn.errors import LearnError
from duly_learn.frames.frame import Array, LearnFrame
from duly_learn.running.payload import Payloads

LOAD_SECONDS_MAX = 600.0
"""A version that is not warm after so long is given up."""
BATCH_SECONDS_MAX = 300.0
"""A batch that takes longer is given up, and its worker with it."""


Payload = Sequence[InputData]


class NotRunning(LearnError):
    """The version cannot be loaded, or its worker has ended. The message says why."""


class FrameRefused(LearnError):
    """A frame got no answer. The message names the frame and says why."""


class Refusal(str):
    """Why a frame has no answer."""


class RunningModel:
    """One variant of a version in a worker. Made by `running`."""

    def __init__(self, version: ModelVersion, ready: Ready, worker: Worker, runner: asyncio.Runner) -> None:
        self.version = version
        self.signature = with_labels(ready.signature, version)
        """What frames hold and outcomes give, with the names of classes."""
        self.variant = version.config.variant_names[0]
        self.times_ns: Mapping[int, tuple[int, ...]] = ready.variants[0].samples_ns
        """What the worker's own warm-up has measured, by batch size."""
        self.providers = ready.variants[0].providers
        self.notes = ready.notes
        """What the author of the model should know, such as that frames of a batch run one by one."""
        self.flagged = 0
        """Frames on which a guard has found something, of all that `outcomes` has run so far, warm-up left out."""
        self._payloads = Payloads(ready.signature)
        self._worker = worker
        self._runner = runner
        self._seq = 0
        self._streams = 0
        """The number of the newest stream that has ended."""
        self._ended_streams: list[int] = []
        """Those that the worker has not been told of."""
        self._waiting: asyncio.Future[BatchResult] | None = None

    @property
    def pid(self) -> int:
        """The number of the worker's process."""
        return self._worker.pid

    def outcomes(self, frames: Sequence[LearnFrame], batch: int = 1) -> list[Outputs | Refusal]:
        """Runs frames in batches of up to `batch`, and returns what each gave or why it gave nothing.

        A model that keeps state is given its frames one by one, each stream from its beginning, whatever `batch` says.
        Raises NotRunning where the worker ends.
        """
        streams: dict[str, int] = {}
        resets: list[bool] = []
        numbers: list[int] = []
        for frame in frames:
            resets.append(frame.stream not in streams)
            numbers.append(streams.setdefault(frame.stream, self._streams + len(streams) + 1))
        step = 1 if self.signature.stateful else min(batch, max(self.signature.batch_sizes))
        given: list[Outputs | Refusal] = []
        for low in range(0, len(frames), step):
            part = slice(low, low + step)
            given += self._batch(frames[part], numbers[part], resets[part])
        self._end_streams(len(streams))
        return given

    def answers(self, frames: Sequence[LearnFrame], batch: int = 1) -> list[Outputs]:
        """Does as `outcomes`, for frames that must all be answered. Raises FrameRefused at the first that is not."""
        answers: list[Outputs] = []
        for index, outcome in enumerate(self.outcomes(frames, batch)):
            if isinstance(outcome, Refusal):
                raise FrameRefused(f"{self.version.key}: frame {index} of {frames[index].stream}: {outcome}")
            answers.append(outcome)
        return answers

    def found(self, frames: Sequence[LearnFrame]) -> list[tuple[str, ...]]:
        """Runs frames one by one, each stream from its beginning, and returns for each the names of the guards that
        found something on it. Raises FrameRefused at a frame that is refused for another reason, and NotRunning.
        """
        streams: dict[str, int] = {}
        found: list[tuple[str, ...]] = []
        for index, frame in enumerate(frames):
            is_first = frame.stream not in streams
            number = streams.setdefault(frame.stream, self._streams + len(streams) + 1)
            result = self._run([self._payload(frame)], [number], [is_first])
            guards = (result.guards or {}).get(0, ())
            reasons = list((result.invalid | result.failed).values())
            if reasons and not guards:
                raise FrameRefused(f"{self.version.key}: frame {index} of {frame.stream}: {reasons[0]}")
            found.append(guards)
        self._end_streams(len(streams))
        return found

    def time_ns(self, frames: Sequence[LearnFrame]) -> int:
        """Runs the frames as one batch, each as the first of a stream of its own, and returns how long the worker says
        that it took: with reading and writing them, without what the server does. Raises FrameRefused and NotRunning.
        """
        numbers = [self._streams + nth for nth in range(1, len(frames) + 1)]
        payloads = [self._payload(frame) for frame in frames]
        result = self._run(payloads, numbers, [True] * len(frames))
        self._end_streams(len(frames))
        if reasons := result.invalid | result.failed:
            raise FrameRefused(f"{self.version.key}: {next(iter(reasons.values()))}")
        return result.finished_ns - result.started_ns

    def _end_streams(self, count: int) -> None:
        """Has the worker forget so many new streams: it is told during the next batch, since then it hears of all of
        them at once, and so many messages would fill its socket.
        """
        self._ended_streams += range(self._streams + 1, self._streams + count + 1)
        self._streams += count

    def _payload(self, frame: LearnFrame) -> Payload:
        try:
            return self._payloads.of(frame)
        except InvalidFrame as error:
            raise FrameRefused(f"{self.version.key}: a frame of {frame.stream}: {error}") from error

    def _batch(
        self, frames: Sequence[LearnFrame], numbers: Sequence[int], resets: Sequence[bool]
    ) -> list[Outputs | Refusal]:
        given: list[Outputs | Refusal] = [Refusal()] * len(frames)
        fitting: list[int] = []
        payloads = []
        for index, frame in enumerate(frames):
            try:
                payloads.append(self._payloads.of(frame))
                fitting.append(index)
            except InvalidFrame as error:
                given[index] = Refusal(str(error))
        if not fitting:
            return given
        # Frames of a model without state may be of one stream: to the worker each is one of its own.
        streams = [numbers[index] if self.signature.stateful else nth for nth, index in enumerate(fitting, 1)]
        try:
            result = self._run(payloads, streams, [resets[index] for index in fitting])
        except FrameRefused as error:
            return [given[index] or Refusal(error) for index in range(len(frames))]
        self.flagged += sum(not frames[fitting[nth]].warms_up for nth in result.guards or {})
        for nth, index in enumerate(fitting):
            reason = result.invalid.get(nth) or result.failed.get(nth)
            given[index] = Refusal(reason) if reason else self._outputs(result.outputs(nth))
        return given

    def _outputs(self, outputs: Sequence[Output]) -> Outputs:
        return {
            self.signature.outputs[index].name: _array(self.signature.outputs[index], shape, data)
            for index, shape, data in outputs
        }

    def _run(self, payloads: Sequence[Payload], streams: Sequence[int], resets: Sequence[bool]) -> BatchResult:
        return self._runner.run(self._ran(payloads, streams, resets))

    async def _ran(self, payloads: Sequence[Payload], streams: Sequence[int], resets: Sequence[bool]) -> BatchResult:
        frames = []
        for stream in streams:
            self._seq += 1
            frames.append(Frame(self._seq, stream, self._seq, self.version.key, 0))
        reset = tuple(frame.seq for frame, is_reset in zip(frames, resets, strict=True) if is_reset)
        action = DispatchBatch(self._seq, self._worker.lane, self.version.key, self.variant, frames, 0, reset)
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            if not self._worker.run(action, payloads):
                raise NotRunning(f"{self.version.key}: its worker has ended")
            for stream in self._ended_streams:
                self._worker.forget(stream)
            self._ended_streams.clear()
            async with asyncio.timeout(BATCH_SECONDS_MAX):
                return await self._waiting
        except TimeoutError:
            self._worker.kill()
            raise NotRunning(
                f"{self.version.key}: a batch of {len(frames)} is not done after {BATCH_SECONDS_MAX:g} s"
            ) from None
        except (ValueError, OSError) as error:
            raise FrameRefused(f"{self.version.key}: {error}") from error
        finally:
            self._waiting = None

    def _take_result(self, batch_id: int, result: BatchResult | NoRoom | str) -> None:
        if self._waiting is None or self._waiting.done():
            return
        if isinstance(result, NoRoom | str):
            reason = result.reason if isinstance(result, NoRoom) else result
            self._waiting.set_exception(FrameRefused(f"{self.version.key}: {reason}"))
        else:
            self._waiting.set_result(result)

    def _gone(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(NotRunning(f"{self.version.key}: {self._worker.end_reason}"))


@contextmanager
def running(
    version: ModelVersion,
    variant: str | None = None,
    threads: int = 1,
    expected: Signature | None = None,
    lane: str = "cpu:0",
) -> Iterator[RunningModel]:
    """Loads and warms one variant, the most accurate one where none is named, and gives it until the block ends.

    Check samples are not run. `threads`: where model.toml states none. `expected`: what frames must hold and outcomes
    give. Must not be called where an event loop runs already.

    Raises:
        NotRunning: it cannot be loaded, or takes or gives something else.
    """
    chosen = next((each for each in version.config.variants if variant in (None, each.name)), None)
    if chosen is None:
        raise NotRunning(f"{version.key}: has no variant {variant}; it has {', '.join(version.config.variant_names)}")
    alone = replace(version, config=version.config.model_copy(update={"variants": (chosen,)}))
    models: list[RunningModel] = []

    def on_batch(batch_id: int, result: BatchResult | NoRoom | str) -> None:
        for model in models:
            model._take_result(batch_id, result)

    def on_end(worker: Worker) -> None:
        for model in models:
            model._gone()

    async def start() -> tuple[Worker, Ready]:
        fingerprint = None if expected is None else Fingerprint({}, _as_a_worker_says(expected))
        worker = start_worker(alone, lane, threads, SizeLimits(), on_batch, on_end, fingerprint, checked=False)
        try:
            return worker, await worker.load.ready(LOAD_SECONDS_MAX)
        except BaseException:
            await worker.stop()
            raise

    with asyncio.Runner() as runner:
        try:
            worker, ready = runner.run(start())
        except WorkerError as error:
            raise NotRunning(version.told(str(error))) from error
        try:
            models.append(RunningModel(alone, ready, worker, runner))
            yield models[0]
        finally:
            runner.run(worker.stop())


def _as_a_worker_says(signature: Signature) -> Signature:
    """Without the names of classes, of which a worker knows nothing."""
    outputs = tuple(spec.model_copy(update={"labels": ()}) for spec in signature.outputs)
    return signature.model_copy(update={"outputs": outputs})


def _array(spec: TensorSpec, shape: tuple[int, ...], data: bytes) -> Array:
    if spec.is_text:
        return text_array(read_texts(data, int(np.prod(shape))), shape)
    return np.frombuffer(data, DTYPES[spec.datatype]).reshape(shape)
