"""Sealing a forecast: canonical JSON, its hash, a file that is written once and read with suspicion."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
from pathlib import Path

from ..errors import UserError
from ..units import compact, number
from .forecast import LAYOUT, Forecast, forecast
from .table import Table


def canonical(body) -> bytes:
    """The one byte string of a JSON value: sorted keys, no spaces, floats as their shortest round-trip text."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def inputs_hash(table: Table) -> str:
    """sha256 over the rows (run_id, role, N, D, C, loss), sorted by run_id, and the metric; their order is no input."""
    rows = sorted(table.rows(), key=lambda row: row["run_id"])
    return hashlib.sha256(canonical({"metric": table.metric, "rows": rows})).hexdigest()


def own_hash(body: dict) -> str:
    """sha256 of a forecast's canonical JSON without its `sha256` field."""
    return hashlib.sha256(canonical({k: v for k, v in body.items() if k != "sha256"})).hexdigest()


def seal(path, table: Table, budget_flops, *, bootstrap: int = 1000, seed: int = 0) -> Forecast:
    """Forecast and write it to `path`, once.

    The same inputs and target again are a no-op that returns what was sealed, also after the probe has been measured.
    Raises UserError when `path` holds another forecast: a sealed forecast is never overwritten.
    """
    path = Path(path)
    if path.exists():
        sealed = load_forecast(path)
        grid = table.grid()
        same = sealed.inputs_sha256 == inputs_hash(grid) and sealed.metric == grid.metric
        if same and sealed.target_budget_flops == number(budget_flops, "target budget", above=0):
            return sealed
        raise UserError(
            f"{path} already holds a forecast sealed {sealed.created} for {compact(sealed.target_budget_flops)} FLOPs "
            "from other inputs or for another target; it is never overwritten: give another file name"
        )
    made = dataclasses.replace(
        forecast(table, budget_flops, bootstrap=bootstrap, seed=seed),
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    made = dataclasses.replace(made, sha256=own_hash(made.to_dict()))
    _write_once(path, json.dumps(made.to_dict(), indent=1, allow_nan=False) + "\n")
    return made


def _write_once(path: Path, text: str) -> None:
    """Write beside, flush to disk, then give it its name; a file that appeared meanwhile is kept, not replaced."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        try:
            # A hard link fails when the name exists, which a rename would silently replace.
            os.link(beside, path)
        except FileExistsError:
            raise UserError(f"{path} was written by someone else meanwhile; it is never overwritten") from None
        except OSError:
            # Some network file systems have no hard links.
            os.rename(beside, path)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except FileNotFoundError:
        raise UserError(f"{path.parent}: no such folder to write {path.name} in") from None
    finally:
        beside.unlink(missing_ok=True)


def load_forecast(path) -> Forecast:
    """Read a sealed forecast and verify its hash. Raises UserError when it is missing, no forecast, or altered."""
    path = Path(path)
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; seal a forecast first with `ditscale forecast`") from None
    except (ValueError, OSError):
        raise UserError(f"{path} is not a sealed forecast (not readable as JSON)") from None
    if not isinstance(body, dict) or "sha256" not in body or "inputs_sha256" not in body:
        raise UserError(f"{path} is not a sealed forecast (it has no sha256)")
    if body.get("layout") != LAYOUT:
        raise UserError(f"{path} has layout {body.get('layout')!r}; this version reads layout {LAYOUT}")
    names = {f.name for f in dataclasses.fields(Forecast)}
    if set(body) != names or own_hash(body) != body["sha256"]:
        raise UserError(f"{path} was altered after it was sealed: its content does not match its sha256")
    return Forecast.from_dict(body)
