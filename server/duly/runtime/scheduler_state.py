"""The state of a scheduler as JSON, so that a recording can begin in the middle and still replay bit for bit.

A state is a list of nodes, the scheduler the first. In a node, numbers, texts, true, false and null stand for
themselves, and [7] for node 7:

    ["object", class, [[field, value], ...]]     ["dict", class, [[key, value], ...]]     ["enum", class, number]
    ["list" | "tuple" | "set", [value, ...]]     ["deque", longest, [value, ...]]         ["method", object, name]

The event loop only takes a copy, as quickly as Python can (`snapshot`); whoever writes a recording makes JSON of it.
Only classes of the scheduler are made when a state is read, so that a file from anywhere runs no code of its own.
"""

import importlib
import io
import pickle
import pkgutil
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass, fields
from enum import Enum
from functools import cache
from types import MethodType
from typing import Any

import duly.core
import duly.core.scheduler
from duly.core.scheduler import Scheduler

_PLAIN = (int, float, str, bool, type(None))
_DICTS: dict[str, type[dict[Any, Any]]] = {"dict": dict, "Counter": Counter, "OrderedDict": OrderedDict}
COMPILED = not str(duly.core.scheduler.__file__).endswith(".py")
"""Whether the scheduler is compiled: objects of its classes can be pickled then, but not made from that again."""


class StateError(ValueError):
    """The state of a scheduler cannot be read, or written; the text says what is wrong."""


def snapshot(scheduler: Scheduler) -> bytes | None:
    """Returns a copy of the scheduler for `state_of`; None where it cannot be copied."""
    try:
        return pickle.dumps(scheduler, pickle.HIGHEST_PROTOCOL)
    except (TypeError, AttributeError, pickle.PicklingError):
        return None


def state_of(taken: bytes) -> list[Any]:
    """Returns the state of a scheduler of which a snapshot was taken in this process. Raises StateError."""
    return _Writer().state(_Taken(io.BytesIO(taken)).load())


def scheduler_of(state: Any) -> Scheduler:
    """Returns a scheduler in that state. Raises StateError, and always where the scheduler is compiled."""
    if COMPILED:
        raise StateError("a compiled scheduler can be given no state; with DULY_COMPILED=0 it is in Python")
    try:
        scheduler = _Reader(state).value([0])
    except Exception as error:  # a file from anywhere may hold anything
        raise StateError(f"the state of the scheduler makes no sense: {type(error).__name__}: {error}") from None
    if not isinstance(scheduler, Scheduler):
        raise StateError("the state is none of a scheduler")
    return scheduler


class _Twin:
    """Stands for an object of one of the scheduler's classes, with the same fields."""

    kind: str


@dataclass(slots=True)
class _Method:
    holder: Any
    name: str


class _Taken(pickle.Unpickler):
    """Reads a snapshot as twins, as objects of compiled classes cannot be made without what they are made of."""

    def find_class(self, module_name: str, name: str) -> Any:
        if (module_name, name) == ("builtins", "getattr"):
            return _Method
        kind: Any = _CLASSES.get(f"{module_name}.{name}")
        if kind is None or issubclass(kind, Enum):
            return super().find_class(module_name, name)
        return _twin(kind)


@cache
def _twin(kind: Any) -> type[_Twin]:
    def set_fields(twin: _Twin, taken: Any) -> None:
        """Takes the fields as pickle has them: by name, or as those of dataclasses in their order."""
        if isinstance(taken, list):
            vars(twin).update(zip((field.name for field in fields(kind)), taken, strict=True))
        else:
            for part in taken if isinstance(taken, tuple) else (taken,):  # slots have a dictionary of their own
                vars(twin).update(part or {})

    return type(kind.__name__, (_Twin,), {"kind": _name(kind), "__setstate__": set_fields})


class _Writer:
    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._known: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no id is used twice

    def state(self, scheduler: Scheduler) -> list[Any]:
        self._value(scheduler)
        return self._nodes

    def _value(self, value: Any) -> Any:
        if type(value) in _PLAIN:
            return value
        number = self._known.get(id(value))
        if number is None:
            number = self._known[id(value)] = len(self._nodes)
            self._kept.append(value)
            self._nodes.append(None)
            self._nodes[number] = self._node(value)
        return [number]

    def _node(self, value: Any) -> list[Any]:
        kind = type(value)
        if isinstance(value, Enum):
            return ["enum", _name(kind), value.value]
        if kind in (list, tuple, set):
            return [kind.__name__, [self._value(each) for each in value]]
        if kind is deque:
            return ["deque", value.maxlen, [self._value(each) for each in value]]
        if kind in _DICTS.values():
            return ["dict", kind.__name__, [[self._value(key), self._value(each)] for key, each in value.items()]]
        if kind is defaultdict:
            raise StateError("a defaultdict is in the scheduler")
        if kind is _Method:
            return ["method", self._value(value.holder), value.name]
        if not issubclass(kind, _Twin):
            raise StateError(f"{kind.__name__} is none of the scheduler's classes")
        return ["object", kind.kind, [[name, self._value(each)] for name, each in vars(value).items()]]


class _Reader:
    def __init__(self, state: Any) -> None:
        if not isinstance(state, list):
            raise StateError("the state should be a list of nodes")
        self._nodes = state
        self._made: dict[int, Any] = {}

    def value(self, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        (number,) = value
        if number not in self._made:
            self._make(number, self._nodes[number])
        return self._made[number]

    def _make(self, number: int, node: Any) -> None:
        """Makes what may hold itself before what it holds."""
        made: Any
        match node:
            case ["enum", str(name), plain]:
                self._made[number] = _class(name, Enum)(plain)
            case ["tuple", list(values)]:
                self._made[number] = tuple(map(self.value, values))
            case ["list", list(values)]:
                made = self._made[number] = []
                made.extend(map(self.value, values))
            case ["set", list(values)]:
                made = self._made[number] = set()
                made.update(map(self.value, values))
            case ["deque", (int() | None) as longest, list(values)]:
                made = self._made[number] = deque(maxlen=longest)
                made.extend(map(self.value, values))
            case ["dict", str(name), list(items)]:
                made = self._made[number] = _DICTS[name]()
                for key, value in items:
                    made[self.value(key)] = self.value(value)
            case ["method", holder, str(name)] if not name.startswith("__"):
                held = self.value(holder)
                method = getattr(held, name)
                if type(method) is not MethodType or _name(type(held)) not in _CLASSES:
                    raise StateError(f"{name} is no method of the scheduler's")
                self._made[number] = method
            case ["object", str(name), list(fields)]:
                kind = _class(name, object)
                made = self._made[number] = object.__new__(kind)
                for field, value in fields:
                    if field.startswith("__"):
                        raise StateError(f"{field} is no field of {name}")
                    object.__setattr__(made, field, self.value(value))
            case _:
                raise StateError(f"node {number} is of no known kind")


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _class(name: str, base: type) -> Any:
    kind = _CLASSES.get(name)
    if kind is None or not issubclass(kind, base):
        raise StateError(f"{name} is none of the scheduler's classes")
    return kind


def _classes() -> dict[str, type]:
    found: dict[str, type] = {}
    for module in pkgutil.walk_packages(duly.core.__path__, "duly.core."):
        for kind in vars(importlib.import_module(module.name)).values():
            if isinstance(kind, type) and kind.__module__ == module.name:
                found[_name(kind)] = kind
    return found


_CLASSES = _classes()
