"""Dataclasses and mappings in YAML files."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import yaml

from ..errors import UserError
from .mapping import build, cast, hints


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    pass


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):
    pass


def _represent_float(dumper, x: float):
    """1.44e+12, not 1440000000000.0: the shortest digits that read back equal, in the form YAML 1.1 calls a float."""
    text = repr(x)
    if abs(x) >= 1e6 or (x and abs(x) < 1e-3):
        text = next(t for digits in range(1, 18) if float(t := f"{x:.{digits}e}") == x)
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


_Dumper.add_representer(float, _represent_float)


def read(cls, path: Path):
    """The dataclass `cls` from a YAML file, as strictly as `build`. Raises UserError when there is none, or it is
    wrong.

    The runs of a study differ in a few numbers while their design, data, recipe and so on are the same text. So each
    top-level key is read, checked and made immutable once for all files of a process that say the same.
    """
    text = _text(path)
    try:
        values = {}
        for block in re.split(r"^(?=\w)", text, flags=re.M):
            if block:
                name, value = _field(cls, block)
                values[name] = value
        made = cls(**values)
    except (yaml.YAMLError, UserError, LookupError, AttributeError, TypeError, ValueError):
        return build(cls, read_yaml(path), str(path))  # not that simple, or wrong: this says what
    if hasattr(made, "check"):
        made.check(str(path))
    return made


@functools.lru_cache(maxsize=4096)
def _field(cls, block: str) -> tuple[str, object]:
    """A top-level key with its value as `cls` has it."""
    plain_number = re.fullmatch(r"(\w+): ([\d.e+]+)\n", block)
    if plain_number and hints(cls)[plain_number[1]] in (int, float):  # YAML's reader takes twenty times as long for it
        return plain_number[1], cast(hints(cls)[plain_number[1]], plain_number[2], "")
    ((name, value),) = yaml.load(block, Loader=_Loader).items()
    return name, cast(hints(cls)[name], value, "")


def read_yaml(path: Path) -> dict:
    """The mapping in a YAML file; UserError when there is none, or it is not a mapping."""
    try:
        mapping = yaml.load(_text(path), Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', error)})") from None
    except ValueError as error:  # what looks like a date and is none, a whole number of thousands of digits
        raise UserError(f"{path}: not valid YAML ({error})") from None
    if not isinstance(mapping, dict):
        raise UserError(f"{path}: holds no keys")
    return mapping


def _text(path: Path) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; save it as UTF-8, or put a whole copy in its place") from None


def dump_yaml(mapping: dict) -> str:
    return yaml.dump(mapping, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120)
