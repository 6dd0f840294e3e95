"""Plans an opened graph, and decides in which batches it may run."""

from dataclasses import dataclass, replace

from duly.accelerators import of_provider
from duly.models.spec import ModelConfig
from duly.worker.batch_axes import RowSession, Session
from duly.worker.batch_dimension import batch_first
from duly.worker.errors import LoadError
from duly.worker.ort_session import OrtSession
from duly.worker.plan import Plan, fit
from duly.worker.reshape import ReshapedSession, reshapes
from duly.worker.rows import Rows
from duly.worker.shape_profile import says_ranges
from duly.worker.sizing import Needs, Room, needs_of


@dataclass(frozen=True, slots=True)
class OpenGraph:
    """A variant that is opened and planned, but not warm."""

    session: OrtSession
    rows: Session
    """The session as the rest of the worker runs it: with the batch as the first dimension of every tensor."""
    plan: Plan
    needs: Needs
    notes: tuple[str, ...]
    """What the author of the model should know."""


def open_graph(session: OrtSession, config: ModelConfig, name: str, toml: str, room: Room) -> OpenGraph:
    """Fits the graph to `config` and checks that frames of a batch do not influence one another.

    `name`, `toml`: what errors call the graph's file and its model.toml. `room`: what its frames may need.

    Raises:
        LoadError: the graph can't be served as model.toml wants it.
    """
    opened = plan_graph(session, config, toml)
    room.settle([opened.needs], toml)  # before frames of that size are made up
    row = of_provider(session.by_shape)
    if row is not None and not says_ranges(row, config):
        for planned in opened.plan.inputs:
            if not planned.reader.sized:
                raise LoadError(
                    f"{toml}: {planned.place}: {row.provider} compiles for shapes, and frames of "
                    f"{list(planned.reader.row_shape)} would wait until it has; say the shape in model.toml"
                )
    sizes = opened.plan.batch_sizes
    if sizes == (1,):
        return opened
    rows = Rows(opened.plan, opened.rows, session.providers, session.operators)
    if opened.plan.any_size and (between := sizes[-1] - 1) not in (1, *sizes):
        if rows.runs(between):
            sizes = tuple(sorted({*sizes, between}))  # kernels may be others where a size is no power of two
        else:  # such as a graph that takes its frames in groups
            note = (
                f"the graph takes no batch of {between}, so that only batches of {list(sizes)} run, and smaller ones "
                "are filled up; say any_size = false in model.toml where that is right"
            )
            plan = replace(opened.plan, any_size=False)
            opened = replace(opened, plan=plan, notes=(*opened.notes, note))
    dependence = rows.dependence(sizes)
    if dependence is None:
        return opened
    if config.dependent_rows == "REFUSE":
        raise LoadError(f'{name}: {dependence}; model.toml has dependent_rows = "REFUSE"')
    if config.dependent_rows == "BATCH":
        note = f'{dependence}; frames share runs all the same, as dependent_rows = "BATCH" in model.toml asks for'
        return replace(opened, notes=(*opened.notes, note))
    if opened.plan.fixed_batch is None:
        note = f"{dependence}; as it is, the frames of a batch are run one after another"
        return replace(opened, plan=replace(opened.plan, apart=True), notes=(*opened.notes, note))
    if config.batched is None:
        try:
            whole = plan_graph(session, config.model_copy(update={"batched": False}), toml)
        except LoadError:
            pass
        else:
            note = (
                f"the first dimension, {opened.plan.fixed_batch}, is not taken for the batch, since {dependence}; a "
                "frame is the whole of the graph's inputs; say batched = false in model.toml where that is right"
            )
            return replace(whole, notes=(*whole.notes, note))
    raise LoadError(f"{name}: {dependence}; export the graph for batches of one, or of any size")


def plan_graph(session: OrtSession, config: ModelConfig, toml: str) -> OpenGraph:
    """Fits the graph to `config`. Nothing is checked yet by running batches. Raises LoadError as `open_graph` does."""
    shaped: Session = session
    graph = session.graph
    try:
        if reshapes(config):
            shaped = reshaped = ReshapedSession(session, graph, config)
            graph = reshaped.graph
        first = batch_first(graph, config, shaped.run)
    except LoadError as error:
        raise LoadError(f"{toml}: {error}") from error
    only_warm_sizes = session.device is not None or bool(session.by_shape) or not config.any_size
    plan = fit(first.graph, config, toml, only_warm_sizes, first.alone)
    rows = RowSession(shaped, first.axes) if first.axes else shaped
    return OpenGraph(session, rows, plan, needs_of(plan, first.graph), first.notes)
