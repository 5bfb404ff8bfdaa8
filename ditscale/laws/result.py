"""What every result of laws/ can do: a frozen dataclass that is written to JSON and read back, type by type."""

import dataclasses
import json
import math
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Any,
    Callable,
    ClassVar,
    Literal,
    NamedTuple,
    Self,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from ..errors import UserError


def key(name: str, **how: Any) -> Any:
    """A field that has another name in JSON."""
    return dataclasses.field(metadata={"key": name}, **how)


def extra() -> Any:
    """A field that JSON does not hold: None after reading back, and no part of what makes two results equal."""
    return dataclasses.field(default=None, repr=False, compare=False, metadata={"key": None})


class Result:
    """A base of frozen dataclasses. LAYOUT: the number that JSON says of its form; COMPUTED: properties that are
    written beside the fields, and not read."""

    LAYOUT: ClassVar[int | None] = None
    COMPUTED: ClassVar[tuple[str, ...]] = ()

    def to_dict(self) -> dict[str, Any]:
        """The JSON object: plain dicts, lists, texts and numbers."""
        out: dict[str, Any] = {} if self.LAYOUT is None else {"layout": self.LAYOUT}
        out |= {e.key: _plain(getattr(self, e.name)) for e in _entries(type(self))}
        return out | {name: _plain(getattr(self, name)) for name in self.COMPUTED}

    @classmethod
    def from_dict(cls, body: object, where: str = "") -> Self:
        """The inverse of `to_dict`; keys it does not know are left alone. Raises UserError, naming the key, on anything
        that `to_dict` does not write."""
        here = where or cls.__name__.lower()
        if not isinstance(body, dict):
            raise UserError(f"{here}: {_short(body)} is not an object of keys and values")
        if cls.LAYOUT is not None and body.get("layout", cls.LAYOUT) != cls.LAYOUT:
            raise UserError(f"{here}: layout {_short(body['layout'])} is not {cls.LAYOUT}, which this version reads")
        given = {}
        for e in _entries(cls):
            if e.key in body:
                given[e.name] = e.read(body[e.key], f"{where}.{e.key}" if where else e.key)
            elif e.needed:
                raise UserError(f"{here}: the key {e.key!r} is missing")
        made = cls(**given)
        if wrong := made.contradiction():
            raise UserError(f"{here}: {wrong}")
        return made

    def contradiction(self) -> str:
        """What is wrong between fields of which each has its type; "" where nothing is."""
        return ""


R = TypeVar("R", bound=Result)


def read_result(kind: type[R], path: Path | str, verb: str) -> R:
    """What `ditscale VERB` wrote to a JSON file. Raises UserError, in one line, at anything else."""
    path = Path(path)
    again = f"`ditscale {verb} {path.parent}` makes it again"
    try:
        return kind.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `ditscale {verb} {path.parent}` makes it") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: is not JSON; {again}") from None
    except UserError as error:
        raise UserError(f"{path}: is not what `ditscale {verb}` writes ({error}); {again}") from None


def _plain(part: Any) -> Any:
    if isinstance(part, Result):
        return part.to_dict()
    if isinstance(part, dict):
        return {k: _plain(v) for k, v in part.items()}
    if isinstance(part, (list, tuple)):
        return [_plain(v) for v in part]
    return None if isinstance(part, float) and not math.isfinite(part) else part  # JSON has no NaN


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


class _Entry(NamedTuple):
    """A field that JSON holds: its name, its key, whether the key must be there, and reader(value, where)."""

    name: str
    key: str
    needed: bool
    read: Callable[[Any, str], Any]


_ENTRIES: dict[type, list[_Entry]] = {}  # by class, as they are first asked for


def _entries(kind: type) -> list[_Entry]:
    if kind not in _ENTRIES:
        hints, missing = get_type_hints(kind), dataclasses.MISSING
        _ENTRIES[kind] = [
            _Entry(f.name, k, f.default is missing and f.default_factory is missing, _reader(hints[f.name]))
            for f in dataclasses.fields(kind)
            if (k := f.metadata.get("key", f.name)) is not None
        ]
    return _ENTRIES[kind]


def _reader(hint: Any) -> Callable[[Any, str], Any]:
    """A function (value, where) that returns the value as the type hint says, or raises UserError."""
    origin, parts = get_origin(hint), get_args(hint)
    if isinstance(hint, type) and issubclass(hint, Result):
        return hint.from_dict
    if origin is Literal:
        return _one_kind(lambda v: isinstance(v, str) and v in parts, f"one of {', '.join(parts)}")
    if origin in (Union, UnionType):
        (inner,) = [_reader(part) for part in parts if part is not NoneType]
        return lambda value, where: None if value is None else inner(value, where)
    if origin is tuple and parts[-1] is ...:
        return _many(list, lambda value: enumerate(value), _reader(parts[0]), tuple)
    if origin is tuple:
        readers = [_reader(part) for part in parts]
        return lambda value, where: _fixed(readers, value, where)
    if origin is dict:
        return _many(dict, lambda value: value.items(), _reader(parts[1]), dict)
    return _one_kind(*SIMPLE[hint])


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


SIMPLE: dict[type, tuple[Callable[[Any], bool], str]] = {
    float: (_is_number, "a finite number"),
    int: (lambda v: isinstance(v, int) and not isinstance(v, bool), "a whole number"),
    bool: (lambda v: isinstance(v, bool), "true or false"),
    str: (lambda v: isinstance(v, str), "text"),
}


def _one_kind(fits: Callable[[Any], bool], what: str) -> Callable[[Any, str], Any]:
    def read(value: Any, where: str) -> Any:
        if not fits(value):
            raise UserError(f"{where}: {_short(value)} is not {what}")
        return value

    return read


def _many(kind: type, pairs: Callable, inner: Callable[[Any, str], Any], make: type) -> Callable[[Any, str], Any]:
    """A reader of a list or an object whose parts are all of one kind."""
    what = "a list" if kind is list else "an object of keys and values"

    def read(value: Any, where: str) -> Any:
        if not isinstance(value, kind):
            raise UserError(f"{where}: {_short(value)} is not {what}")
        parts = [(k, inner(v, f"{where}[{k!r}]")) for k, v in pairs(value)]
        return make(parts) if make is dict else tuple(v for _, v in parts)

    return read


def _fixed(readers: list, value: Any, where: str) -> tuple:
    if not isinstance(value, list) or len(value) != len(readers):
        raise UserError(f"{where}: {_short(value)} is not a list of {len(readers)}")
    return tuple(read(v, f"{where}[{i}]") for i, (read, v) in enumerate(zip(readers, value, strict=True)))
