"""How a model configuration of Triton has requests batched, queued and joined to sequences."""

from duly.models.kserve import PRIORITY_LEVELS_MAX, ROWS_MAX, class_of_priority
from duly.models.spec import BATCH_MAX
from duly.models.triton.message import Message
from duly.models.triton.text_format import TextError
from duly.models.triton.written import Table, Written, dims_of, needed, put_datatype, refused, unused

INITIAL_STATES_FOLDER = "initial_state"
"""The files of first states lie there, in the model's folder."""
_BUDGET_MS_MAX = 600_000
_KINDS = {
    "CONTROL_SEQUENCE_START": "START",
    "CONTROL_SEQUENCE_READY": "READY",
    "CONTROL_SEQUENCE_END": "END",
    "CONTROL_SEQUENCE_CORRID": "STREAM",
}
_FALSE_TRUE = ("int32_false_true", "fp32_false_true", "bool_false_true")
_BY_DEADLINE = "the scheduler decides by the deadlines how long a batch waits"


def batch_sizes(written: Written, config: Message) -> None:
    """Writes which batches there are. Raises TextError."""
    size, line = config.integer("max_batch_size"), config.line_of("max_batch_size")
    if size < 0:
        raise TextError(line, f"max_batch_size: should be 0 or more, got {size}")
    stated = [message for kind in ("input", "output") for message in config.messages(kind) if "dims" in message.lines]
    if not size:
        if "max_batch_size" in config.lines or stated:
            written.put("batched", False, line)
            _kserve(written)["max_batch_size"] = 0
        return
    largest = min(size, BATCH_MAX)
    if size > BATCH_MAX:
        written.note(
            line,
            f"max_batch_size: batches have at most {BATCH_MAX} frames, and requests as many rows as a stream may have "
            f"frames unanswered (frames_in_flight_max), {ROWS_MAX} at most",
        )
    preferred = _preferred(config.message("dynamic_batching"), "dynamic_batching", size)
    sequences = config.message("sequence_batching")
    preferred |= _preferred(sequences and sequences.message("oldest"), "sequence_batching.oldest", size)
    sizes = {1 << power for power in range(largest.bit_length())} | {largest} | preferred
    written.put("batched", True, line)
    written.put("batch_sizes", sorted(each for each in sizes if each <= largest), line)
    _kserve(written)["max_batch_size"] = size


def _preferred(scheduling: Message | None, where: str, largest: int) -> set[int]:
    sizes = scheduling.scalars.get("preferred_batch_size", []) if scheduling is not None else []
    for each in sizes:
        if not 1 <= int(each.value) <= largest:
            text = f"{where}.preferred_batch_size: should be from 1 to max_batch_size, {largest}, got {each.value}"
            raise TextError(each.line, text)
    return {int(each.value) for each in sizes}


def _kserve(written: Written) -> dict[str, object]:
    table = written.table.setdefault("kserve", {})
    assert isinstance(table, dict)
    return table


def dynamic_batching(written: Written, scheduling: Message) -> None:
    """Writes what there is to say of `dynamic_batching`. Raises TextError."""
    where = "dynamic_batching."
    unused(written, scheduling, ["max_queue_delay_microseconds"], where, _BY_DEADLINE)
    unused(written, scheduling, ["preserve_ordering"], where, "each stream says in which order it wants its outcomes")
    levels, line = scheduling.integer("priority_levels"), scheduling.line_of("priority_levels")
    default = scheduling.integer("default_priority_level")
    if levels > PRIORITY_LEVELS_MAX:
        raise TextError(line, f"{where}priority_levels: at most {PRIORITY_LEVELS_MAX:,} are served, got {levels}")
    if levels:
        if not 1 <= default <= levels:
            line = scheduling.line_of("default_priority_level")
            text = f"{where}default_priority_level: should be from 1 to priority_levels, {levels}, got {default}"
            raise TextError(line, text)
        _kserve(written)["priority_levels"] = levels
        written.lines["kserve.priority_levels"] = line
        chosen = class_of_priority(default, levels)
        assert chosen is not None
        written.put("default_class", chosen.name, scheduling.line_of("default_priority_level"))
    elif default:
        line = scheduling.line_of("default_priority_level")
        raise TextError(line, f"{where}default_priority_level: needs priority_levels, of which it is one")
    policy = scheduling.message("default_queue_policy")
    if policy is not None:
        _queue_policy(written, policy)
    for level, other in scheduling.maps.get("priority_queue_policy", {}).items():
        assert isinstance(other, Message)
        if not 1 <= int(level) <= levels:
            text = f"{where}priority_queue_policy: level {level} is none of 1 to priority_levels, {levels}"
            raise TextError(other.line, text)
        text = f"{where}priority_queue_policy has no effect for level {level}: all levels have default_queue_policy"
        written.note(other.line, text)


def _queue_policy(written: Written, policy: Message) -> None:
    where = "default_queue_policy."
    timeout_us, line = policy.integer("default_timeout_microseconds"), policy.line_of("default_timeout_microseconds")
    if policy.text("timeout_action") == "DELAY":
        line = policy.line_of("timeout_action")
        written.note(line, f"{where}timeout_action: DELAY has no effect: a frame that can't be in time is answered so")
    elif timeout_us:
        written.put("default_budget_ms", min(timeout_us / 1000, float(_BUDGET_MS_MAX)), line)
        if timeout_us > 1000 * _BUDGET_MS_MAX:
            written.note(line, f"{where}default_timeout_microseconds: a budget has at most {_BUDGET_MS_MAX:,} ms")
    if "allow_timeout_override" in policy.lines and not policy.flag("allow_timeout_override"):
        line = policy.line_of("allow_timeout_override")
        written.note(
            line, f"{where}allow_timeout_override: false has no effect: the budget that a client states counts"
        )
    why = "what waits is bounded for each stream by its backlog policy, and in bytes by the server"
    unused(written, policy, ["max_queue_size"], where, why)


def sequence_batching(written: Written, scheduling: Message) -> None:
    """Writes `[[state]]` and `[[control]]`. Raises TextError."""
    where = "sequence_batching."
    refused(scheduling, ["iterative_sequence"], where, "a frame has one result; the client sends the next one")
    why = "a stream ends when its client closes it, or by the server's limits for idle ones"
    unused(written, scheduling, ["max_sequence_idle_microseconds"], where, why)
    for name in ("direct", "oldest"):
        strategy = scheduling.message(name)
        if strategy is not None:
            others = ["minimum_slot_utilization", "max_candidate_sequences", "max_queue_delay_microseconds"]
            unused(written, strategy, others, f"{where}{name}.", _BY_DEADLINE)
            why = "the frames of a stream are answered in its order"
            unused(written, strategy, ["preserve_ordering"], f"{where}{name}.", why)
    for message in scheduling.messages("control_input"):
        _control(written, message)
    for message in scheduling.messages("state"):
        _state(written, message)
    if not scheduling.messages("control_input") and not scheduling.messages("state"):
        text = "sequence_batching: names neither states nor control inputs, so that no state is kept of a stream"
        written.note(scheduling.line, text)


def _control(written: Written, message: Message) -> None:
    where = "sequence_batching.control_input"
    table = written.add("control", message.line)
    table.put("input", needed(message, "name", where), message.line_of("name"))
    controls = message.messages("control")
    if len(controls) != 1:
        raise TextError(message.line_of("control"), f"{where}: should have one control, got {len(controls)}")
    control = controls[0]
    kind = control.text("kind") or "CONTROL_SEQUENCE_START"
    table.put("kind", _KINDS[kind], control.line_of("kind"))
    stated = [name for name in _FALSE_TRUE if name in control.scalars]
    if kind == "CONTROL_SEQUENCE_CORRID":
        if stated:
            text = f"{where}: CONTROL_SEQUENCE_CORRID is a number and takes no {stated[0]}"
            raise TextError(control.line_of(stated[0]), text)
        if control.text("data_type") == "TYPE_STRING":
            text = f"{where}: CONTROL_SEQUENCE_CORRID is served as a number; TYPE_STRING is not"
            raise TextError(control.line_of("data_type"), text)
        return
    if len(stated) != 1:
        text = f"{where}: {kind} needs one of {', '.join(_FALSE_TRUE)}, such as fp32_false_true: [ 0, 1 ]"
        raise TextError(control.line_of(stated[1]) if stated else control.line, text)
    values = control.scalars[stated[0]]
    if len(values) != 2:
        text = f"{where}.{stated[0]}: should be two values, for false and true, got {len(values)}"
        raise TextError(control.line_of(stated[0]), text)
    table.put("false_true", [float(each.value) for each in values], control.line_of(stated[0]))


def _state(written: Written, message: Message) -> None:
    where = "sequence_batching.state"
    table = written.add("state", message.line)
    table.put("output", needed(message, "output_name", where), message.line_of("output_name"))
    table.put("input", needed(message, "input_name", where), message.line_of("input_name"))
    put_datatype(table, message, where)
    refused(
        message, ["use_growable_memory"], f"{where}.", "a state has one size; clients keep one that grows themselves"
    )
    why = "a state is kept until its batch has run, so that a batch that fails leaves it as it was"
    unused(written, message, ["use_same_buffer_for_input_output"], f"{where}.", why)
    dims, line = dims_of(message, "dims", f"{where}.dims"), message.line_of("dims")
    first = message.messages("initial_state")
    if len(first) > 1:
        raise TextError(first[1].line, f"{where}.initial_state: a state begins with one; keep one")
    if first:
        dims, line = _first(table, first[0], dims, line)
    if dims is not None and -1 not in dims:
        table.put("shape", dims, line)


def _first(table: Table, first: Message, dims: list[int] | None, line: int) -> tuple[list[int] | None, int]:
    """Writes what a state begins with. Returns its shape and the line that this is from."""
    where = "sequence_batching.state.initial_state"
    own = dims_of(first, "dims", f"{where}.dims")
    file = first.text("data_file")
    if file:
        if "/" in file or file in (".", ".."):
            text = f"{where}.data_file: should be the name of a file in the folder {INITIAL_STATES_FOLDER} of the model"
            raise TextError(first.line_of("data_file"), text)
        table.put("initial", f"{INITIAL_STATES_FOLDER}/{file}", first.line_of("data_file"))
    elif not first.flag("zero_data"):
        raise TextError(first.line, f"{where}: needs zero_data: true, or the data_file that it begins with")
    if own is None:
        return dims, line
    if -1 in own:
        raise TextError(first.line_of("dims"), f"{where}.dims: should be fixed, got {own}")
    if dims is not None and (len(dims) != len(own) or any(d not in (-1, o) for d, o in zip(dims, own, strict=True))):
        raise TextError(first.line_of("dims"), f"{where}.dims: {own} does not fit the {dims} of the state")
    return own, first.line_of("dims")
