"""From mappings to dataclasses and back, strictly."""

from __future__ import annotations

import functools
import types
import typing
from dataclasses import MISSING, asdict, fields, is_dataclass

from .. import units
from ..errors import UserError, nearest


def build(cls, mapping, where: str):
    """Make the dataclass `cls` from a mapping, strictly. Numbers pass through units, lists become tuples.

    Raises UserError, of one line, at an unknown or missing key, a wrong type, or a value that `cls.check` refuses.
    """
    if not isinstance(mapping, dict):
        raise UserError(f"{where}: expected keys ({', '.join(f.name for f in fields(cls))}), got {mapping!r}")
    known = hints(cls)
    for key in mapping:
        if key not in known:
            raise UserError(f"{where}: unknown key {key!r}{nearest(key, known)}; valid keys: {', '.join(known)}")
    values = {}
    for f in fields(cls):
        if f.name in mapping:
            values[f.name] = cast(known[f.name], mapping[f.name], f"{where}.{f.name}")
        elif f.default is MISSING and f.default_factory is MISSING:
            raise UserError(f"{where}: the key {f.name!r} is missing")
    made = cls(**values)
    if hasattr(made, "check"):
        made.check(where)
    return made


@functools.cache  # they are evaluated from text, which takes most of the time of reading thousands of runs
def hints(cls) -> dict:
    """{field: type} of a dataclass."""
    return typing.get_type_hints(cls)


def cast(hint, value, where: str):
    """A value as the type of its field. Raises UserError where it is of another."""
    if is_dataclass(hint):
        return build(hint, value, where)
    if hint is bool:
        if not isinstance(value, bool):
            raise UserError(f"{where}: {value!r} is not true or false")
        return value
    if hint is int:
        return units.whole(value, where)
    if hint is float:
        return units.number(value, where)
    if hint is str:
        if not isinstance(value, str):
            raise UserError(f"{where}: {value!r} is not text")
        return value
    origin = typing.get_origin(hint)
    if origin is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where}: {value!r} is not a mapping of labels")
        return {k: cast(typing.get_args(hint)[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is tuple or origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where}: {value!r} is not a list; write [{value}]")
        if hint is tuple:  # whole numbers, or lists of them
            return tuple(
                tuple(units.whole(v, where) for v in x) if isinstance(x, (list, tuple)) else units.whole(x, where)
                for x in value
            )
        return tuple(cast(typing.get_args(hint)[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(hint) if a is not type(None)]
        return None if value is None else cast(inner[0], value, where)
    raise TypeError(f"{where}: no rule for {hint}")


def plain(made) -> dict:
    """A dataclass as the nested dicts and lists that YAML and JSON hold; `build` reads it back. What is None is left
    out."""
    return _plain(asdict(made))


def _plain(value):
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
