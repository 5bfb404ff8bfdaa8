"""Dataclasses and mappings in YAML files."""

import functools
import re
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from .mapping import T, build, cast, check_combination, hints, is_number

# libyaml's, where PyYAML was built with it, are ten times as fast.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = type("_Dumper", (getattr(yaml, "CSafeDumper", yaml.SafeDumper),), {})


def _represent_float(dumper: yaml.SafeDumper, x: float) -> yaml.ScalarNode:
    """1.44e+12, not 1440000000000.0: the shortest digits that read back equal, in the form YAML 1.1 calls a float."""
    text = repr(x)
    if abs(x) >= 1e6 or (x and abs(x) < 1e-3):
        text = next(t for digits in range(1, 18) if float(t := f"{x:.{digits}e}") == x)
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


_Dumper.add_representer(float, _represent_float)


def read(cls: type[T], path: Path) -> T:
    """The dataclass `cls` from a YAML file, as strictly as `build`. Raises UserError when the file is missing or wrong.

    The runs of a study differ in a few numbers only, so a process reads and checks equal top-level keys once."""
    try:
        text = Path(path).read_text("utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; save it as UTF-8, or restore it from a copy") from None
    try:
        instance = cls(**dict(_field(cls, block) for block in re.split(r"^(?=\w)", text, flags=re.M) if block))
    except (yaml.YAMLError, UserError, LookupError, AttributeError, TypeError, ValueError):
        return build(cls, _mapping(path, text), str(path))  # It is not that simple, or wrong: `build` says where.
    return check_combination(instance, str(path))


@functools.lru_cache(maxsize=4096)
def _field(cls: type, block: str) -> tuple[str, object]:
    """A top-level key with its value as `cls` has it."""
    plain_number = re.fullmatch(r"(\w+): ([\d.e+]+)\n", block)
    if plain_number and is_number(hints(cls)[plain_number[1]]):  # YAML's reader takes twenty times as long.
        return plain_number[1], cast(hints(cls)[plain_number[1]], plain_number[2], "")
    ((name, value),) = yaml.load(block, Loader=_Loader).items()
    return name, cast(hints(cls)[name], value, "")


def _mapping(path: Path, text: str) -> dict:
    try:
        mapping = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', error)})") from None
    except ValueError as error:  # A date that does not exist, or a whole number of thousands of digits.
        raise UserError(f"{path}: not valid YAML ({error})") from None
    if not isinstance(mapping, dict):
        raise UserError(f"{path}: holds no keys")
    return mapping


def dump_yaml(mapping: dict) -> str:
    """A mapping as YAML, keys in their order."""
    return yaml.dump(mapping, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120)
