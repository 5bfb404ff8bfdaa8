"""What every result can do: a frozen dataclass that is written to JSON and read back, type by type."""

import dataclasses
import json
import math
import sys
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from .errors import UserError


def key(name: str, **how: Any) -> Any:
    """A field that has another name in JSON."""
    return dataclasses.field(metadata={"key": name}, **how)


def extra() -> Any:
    """A field that JSON does not hold: None after reading back, and no part of what makes two results equal."""
    return dataclasses.field(default=None, repr=False, compare=False, metadata={"key": None})


def optional() -> Any:
    """A field that is None where it is not known, and then no key of JSON, as in files of older versions."""
    return dataclasses.field(default=None, metadata={"optional": True})


class Result:
    """A base of frozen dataclasses. LAYOUT: the number that JSON says of its form; COMPUTED: properties that are
    written beside the fields, and not read."""

    LAYOUT: ClassVar[int | None] = None
    COMPUTED: ClassVar[tuple[str, ...]] = ()

    def to_dict(self) -> dict[str, Any]:
        """The JSON object: plain dicts, lists, texts and numbers."""
        out: dict[str, Any] = {} if self.LAYOUT is None else {"layout": self.LAYOUT}
        for key, field, _ in _entries(type(self)):
            value = getattr(self, field.name)
            if value is not None or "optional" not in field.metadata:
                out[key] = _plain(value)
        return out | {name: _plain(getattr(self, name)) for name in self.COMPUTED}

    def __getitem__(self, name: str) -> Any:
        """A value by its key in JSON, as of the dicts that results were before. Raises KeyError with the keys."""
        fields = {key: field.name for key, field, _ in _entries(type(self))} | {n: n for n in self.COMPUTED}
        if name not in fields:
            raise KeyError(f"{name!r} is none of {', '.join(fields)}")
        return getattr(self, fields[name])

    @classmethod
    def from_dict(cls, body: object, where: str = "") -> Self:
        """The inverse of `to_dict`; skips unknown keys. Raises UserError, naming the key, on what that never writes."""
        here = where or cls.__name__.lower()
        if not isinstance(body, dict):
            raise UserError(f"{here}: {short(repr(body))} is not an object of keys and values")
        if cls.LAYOUT is not None and (layout := body.get("layout", cls.LAYOUT)) != cls.LAYOUT:
            raise UserError(f"{here}: layout {short(repr(layout))} is not {cls.LAYOUT}, which this version reads")
        given = {}
        for key, field, hint in _entries(cls):
            if key in body:
                given[field.name] = _read(hint, body[key], f"{where}.{key}" if where else key)
            elif field.default is field.default_factory is dataclasses.MISSING:
                raise UserError(f"{here}: the key {key!r} is missing")
        made = cls(**given)
        if wrong := made.contradiction():
            raise UserError(f"{here}: {wrong}")
        return made

    def contradiction(self) -> str:
        """What is wrong between fields of which each has its type; "" where nothing is."""
        return ""

    @classmethod
    def from_file(cls, path: Path | str, verb: str, again: str = "") -> Self:
        """What `ditscale VERB` wrote to a JSON file. Raises UserError, in one line, at anything else. again: what to do
        about a damaged file (default: to type the verb)."""
        path = Path(path)
        again = again or f"`ditscale {verb} {path.parent}` makes it again"
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
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


def short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."


_hints = cache(get_type_hints)


def _entries(kind: Any) -> list[tuple[str, dataclasses.Field, Any]]:
    """[(key, field, its type)] of what JSON holds."""
    named = ((field.metadata.get("key", field.name), field) for field in dataclasses.fields(kind))
    return [(key, field, _hints(kind)[field.name]) for key, field in named if key is not None]


# The types of plain values in Python, and in words.
PLAIN: dict[Any, tuple[Any, str]] = {
    float: ((int, float), "a finite number"), int: (int, "a whole number"), bool: (bool, "true or false"),
    str: (str, "text"), dict: (dict, "an object of keys and values"), tuple: (list, "a list"),
}  # fmt: skip


def _read(hint: Any, value: Any, where: str) -> Any:
    """The value as the type hint says. Raises UserError where it is of another type."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        (inner,) = [part for part in parts if part is not NoneType]
        return None if value is None else _read(inner, value, where)
    if isinstance(kind, type) and issubclass(kind, Result):
        return kind.from_dict(value, where)
    types, what = (str, f"one of {', '.join(parts)}") if kind is Literal else PLAIN[kind]
    fits = isinstance(value, types) and isinstance(value, bool) == (kind is bool)
    if kind is Literal:
        fits = fits and value in parts
    elif kind is float:
        fits = fits and abs(value) <= sys.float_info.max  # Neither nan nor 10**400, which JSON can hold.
    elif kind is tuple and parts[-1] is ...:
        parts = parts[:1] * len(value) if fits else parts
    elif kind is tuple:
        fits, what = fits and len(value) == len(parts), f"a list of {len(parts)}"
    if not fits:
        raise UserError(f"{where}: {short(repr(value))} is not {what}")
    if kind is dict:
        return {k: _read(parts[1], v, f"{where}[{k!r}]") for k, v in value.items()}
    if kind is tuple:
        return tuple(_read(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(parts, value, strict=True)))
    return value
