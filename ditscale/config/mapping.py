"""From mappings to dataclasses and back, strictly. The type of a field may carry the function that reads its values
and refuses those beyond its limits: Annotated[int, partial(whole, low=1)]."""

from collections.abc import Iterator
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache, partial
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from ..errors import UserError, nearest, one_of
from ..units import number, whole

PositiveFloat = Annotated[float, partial(number, above=0)]
NonNegativeFloat = Annotated[float, partial(number, low=0)]
Fraction = Annotated[float, partial(number, low=0, high=1)]
PositiveInt = Annotated[int, partial(whole, low=1)]
NonNegativeInt = Annotated[int, partial(whole, low=0)]
Seed = Annotated[int, partial(whole, low=0, high=2**31 - 1)]
Problems = Iterator[tuple[str, str]]  # What `problems` of a dataclass yields: a key, and what is wrong with its value.


class Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


T = TypeVar("T", bound=Dataclass)


def build(cls: type[T], mapping: object, where: str) -> T:
    """Make the dataclass `cls` from a mapping, strictly. Numbers pass through units, lists become tuples. Raises
    UserError at an unknown or missing key, a wrong type, a value beyond its limits, and the first of `cls.problems`."""
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
    return check_combination(cls(**values), where)


def check(instance: Dataclass, where: str):
    """Raise UserError unless `build` would take what a dataclass holds. where: "" for the options of a command."""
    for name, hint in hints(type(instance)).items():
        cast(hint, getattr(instance, name), key_name(where, name))
    check_combination(instance, where)


def check_combination(instance: T, where: str) -> T:
    """The instance. Raises UserError where values that are valid by themselves do not go together."""
    for key, text in getattr(instance, "problems", tuple)():
        raise UserError(f"{key_name(where, key)}: {text}")
    return instance


def key_name(where: str, name: str) -> str:
    """What messages call a field: "study.seeds" in a file, "--batch-size" where it is an option of a command."""
    return f"{where}.{name}" if where else f"--{name.replace('_', '-')}"


@cache  # Type hints are evaluated from text, which takes most of the time of reading thousands of runs.
def hints(cls: type) -> dict[str, Any]:
    """{field: type} of a dataclass."""
    return get_type_hints(cls, include_extras=True)


def is_number(hint: Any) -> bool:
    """Whether a field holds one number."""
    return (get_args(hint)[0] if get_origin(hint) is Annotated else hint) in (int, float)


def cast(hint: Any, value: Any, where: str) -> Any:
    """A value as the type of its field. Raises UserError where it is of another type, or beyond its limits."""
    kind, arguments = get_origin(hint), get_args(hint)
    if kind is Annotated:
        return arguments[1](value, what=where)
    if kind is Literal:
        return one_of(value, arguments, where)
    if kind in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        is_list = isinstance(value, (list, tuple))
        options = [a for a in arguments if a is not NoneType]
        return cast(next((a for a in options if (get_origin(a) is tuple) == is_list), options[0]), value, where)
    if isinstance(hint, type) and is_dataclass(hint):
        if not isinstance(value, hint):
            return build(hint, value, where)
        check(value, where)
        return value
    if hint in (int, float):
        return (whole if hint is int else number)(value, where)
    for simple, expected in ((bool, "true or false"), (str, "text"), (dict, "a mapping of labels")):
        if (kind or hint) is simple and not isinstance(value, simple):
            raise UserError(f"{where}: {value!r} is not {expected}")
    if kind is dict:
        return {k: cast(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if kind is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where}: {value!r} is not a list; write [{value}]")
        return tuple(cast(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    return value


def plain(instance: Dataclass) -> dict[str, Any]:
    """A dataclass as the dicts and lists that YAML and JSON hold, without what is None; `build` reads it back."""

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: bare(v) for k, v in value.items() if v is not None}
        return [bare(v) for v in value] if isinstance(value, (list, tuple)) else value

    return bare(asdict(instance))
