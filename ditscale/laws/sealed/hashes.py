"""Hashes that a second reader can compute again: canonical JSON, then sha256."""

import hashlib
import json
from typing import Any

from ..table import Table


def canonical(body: Any) -> bytes:
    """The one byte string of a JSON value: sorted keys, no spaces, floats as their shortest round-trip text."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def inputs_hash(table: Table) -> str:
    """sha256 over the rows (run_id, role, N, D, C, loss), sorted by run_id, and the metric; their order is no input."""
    rows = [point.to_dict() for point in sorted(table.points(), key=lambda point: point.run_id)]
    return hashlib.sha256(canonical({"metric": table.metric, "rows": rows})).hexdigest()


def own_hash(body: dict) -> str:
    """sha256 of a forecast's canonical JSON without its `sha256` field."""
    return hashlib.sha256(canonical({k: v for k, v in body.items() if k != "sha256"})).hexdigest()
