"""The floors of the house: a file imports only from its own floor or below, and the low floors never load torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "ditscale"
FLOORS = [
    {"units", "config", "flops", "naming", "files", "errors"},
    {"plan", "laws", "store"},
    {"model", "diffusion", "data"},
    {"train", "evaluate"},
    {"launch"},
    {"pipeline", "cli", "report", "sweep", "rehearsal", "__main__", "__init__"},
]
FLOOR = {name: i for i, names in enumerate(FLOORS) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path):
    """Rooms of ditscale, and outside packages, that a file imports anywhere; and outside packages at import time."""
    parts = path.relative_to(PACKAGE).parent.parts
    tree = ast.parse(path.read_text())
    rooms, outside = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = list(parts[: len(parts) - node.level + 1]) + (node.module.split(".") if node.module else [])
            rooms |= {base[0]} if base else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            (rooms if node.module.startswith("ditscale.") else outside).add(
                node.module.split(".")[node.module.startswith("ditscale.")]
            )
        elif isinstance(node, ast.Import):
            outside |= {alias.name.split(".")[0] for alias in node.names}
    return rooms - {"__version__"}, outside


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    rooms, outside = imports(path)
    here = FLOOR[room(path)]
    for other in rooms:
        assert FLOOR[other] <= here, f"{path} imports {other}, which is above it"
    if here <= 1:
        assert "torch" not in outside
    if here <= 3:
        assert not outside & {"submitit"}
        assert "hydra" not in outside or room(path) == "config"


def test_every_room_has_a_floor():
    assert {room(p) for p in FILES} == set(FLOOR)


def test_light_verbs_do_not_load_torch():
    code = (
        "import sys, ditscale.cli, ditscale.laws, ditscale.plan.grid, ditscale.store.collect, ditscale.launch.status;"
        "from ditscale.config import compose; compose(['study=paper']);"
        "assert 'torch' not in sys.modules and 'submitit' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)
