"""Sealing a forecast: a file that is written once and read with suspicion."""

import dataclasses
import datetime
import json
from pathlib import Path

from ...errors import UserError
from ...files import write_once
from ...units import compact
from .forecast import Forecast, own_hash


def seal(path: Path | str, made: Forecast) -> Forecast:
    """Write `made` (from `forecast`) to `path`, once, with the time and its own hash; returns what lies there.

    The same inputs, metric and target again are a no-op, also after the probe has been measured. Raises UserError when
    `path` holds another forecast, which is never overwritten, or when a probe was measured before anything was sealed.

        ds.seal("forecast.json", ds.forecast("runs.csv", "1.5e21"))
    """
    path = Path(path)
    if path.exists():
        sealed = load_forecast(path)
        if all(getattr(sealed, n) == getattr(made, n) for n in ("inputs_sha256", "metric", "target_budget_flops")):
            return sealed
        held = f"a forecast sealed {sealed.created} for {compact(sealed.target_budget_flops)} FLOPs from other inputs"
        never = "it is never overwritten: give another file name"
        raise UserError(f"{path} already holds {held} or for another target; {never}")
    if made.inputs.measured_probes:
        measured = f"the probe {made.inputs.measured_probes[0]} has been measured already"
        raise UserError(f"{path}: {measured}; a forecast is sealed before its probe runs")
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    sealed = dataclasses.replace(made, created=now, sha256=None)
    sealed = dataclasses.replace(sealed, sha256=own_hash(sealed.to_dict()))
    try:
        write_once(path, json.dumps(sealed.to_dict(), indent=1, allow_nan=False) + "\n", to_disk=True)
    except FileExistsError:
        raise UserError(f"{path} was written by someone else meanwhile; it is never overwritten") from None
    return sealed


def load_forecast(path: Path | str) -> Forecast:
    """Read a sealed forecast and verify its hash. Raises UserError when it is missing, no forecast, or altered."""
    path = Path(path)
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; seal a forecast first with `ditscale forecast`") from None
    except (ValueError, RecursionError, OSError):
        raise UserError(f"{path} is not a sealed forecast (not readable as JSON)") from None
    if not isinstance(body, dict) or "sha256" not in body or "inputs_sha256" not in body:
        raise UserError(f"{path} is not a sealed forecast (it has no sha256)")
    if body.get("layout") != Forecast.LAYOUT:
        reads = f"this version reads layout {Forecast.LAYOUT}; give the verdict with the ditscale that sealed it"
        raise UserError(f"{path} has layout {body.get('layout')!r}; {reads}")
    try:
        if own_hash(body) == body["sha256"] and (sealed := Forecast.from_dict(body)).to_dict() == body:
            return sealed
    except (ValueError, UserError):
        pass  # NaN, which JSON does not have, or parts of another shape: no forecast that was ever sealed
    raise UserError(f"{path} was altered after it was sealed: its content does not match its sha256")
