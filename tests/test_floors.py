"""The floors of the house: imports go down only, no two rooms share a floor, and the low floors never load torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "ditscale"
# From the ground up. A room may import from rooms that stand before it, and from no other.
ROOMS = [
    "errors", "logs", "units", "files", "naming", "quantities", "result", "process", "config", "image_file", "flops",
    "slurm_client", "plan", "rundir",
    "collect", "price", "tables", "laws", "decision", "precision", "early",
    "data", "model", "diffusion", "distributed",
    "evaluate",
    "train",
    "launch",
    "report", "sweep", "pipeline", "rehearsal", "study", "cli", "__main__", "__init__",
]  # fmt: skip
# The folders of laws/ likewise; its own files are read as folders of one file.
LAWS = [
    "findings", "estimates", "text", "notebook", "synthetic", "minima", "surface",
    "predictor", "checks", "learning_rate", "frontier", "sealed", "laws", "fit", "prior", "compare", "spread",
    "questions", "__init__",
]  # fmt: skip
WITHOUT_TORCH = ROOMS[: ROOMS.index("data")]
WITHOUT_LAUNCHERS = ROOMS[: ROOMS.index("launch")]
FILES = sorted(PACKAGE.rglob("*.py"))


def targets(path: Path):
    """(modules of ditscale, packages from outside) that a file imports anywhere; modules as tuples of names."""
    parts = path.relative_to(PACKAGE).parent.parts
    inside, outside = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = parts[: len(parts) - node.level + 1] + tuple(node.module.split(".") if node.module else ())
            inside |= {base + (alias.name,) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            name = node.module.split(".")
            inside |= {tuple(name[1:]) + (alias.name,) for alias in node.names} if name[0] == "ditscale" else set()
            outside |= {name[0]} - {"ditscale"}
        elif isinstance(node, ast.Import):
            outside |= {alias.name.split(".")[0] for alias in node.names}
    return inside - {("__version__",)}, outside


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    inside, outside = targets(path)
    here = room(path)
    above = {"/".join(t) for t in inside if t[0] != here and ROOMS.index(t[0]) > ROOMS.index(here)}
    assert not above, f"{path.relative_to(PACKAGE)} imports from above: {above}"
    if here in WITHOUT_TORCH:
        assert "torch" not in outside
    if here in WITHOUT_LAUNCHERS:
        assert "submitit" not in outside
        assert "hydra" not in outside or here == "config"


@pytest.mark.parametrize("path", sorted((PACKAGE / "laws").rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_in_laws_go_down(path):
    here = path.relative_to(PACKAGE / "laws").with_suffix("").parts[0]
    above = {"/".join(t) for t in targets(path)[0] if t[0] == "laws" and LAWS.index(t[1]) > LAWS.index(here)}
    assert not above, f"{path.relative_to(PACKAGE)} imports from above: {above}"


# Programs of their own, whose output is their answer: python -m ditscale.laws.synthetic and what batch scripts call.
PROGRAMS = {"laws/synthetic.py", "launch/element.py", "launch/job/array_task.py"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_command_line_prints(path):
    """Everything else returns values and logs; a print to a given file is its caller's."""
    calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    prints = [n for n in calls if isinstance(n.func, ast.Name) and n.func.id == "print"]
    to_nowhere_given = [n.lineno for n in prints if "file" not in {keyword.arg for keyword in n.keywords}]
    assert room(path) == "cli" or str(path.relative_to(PACKAGE)) in PROGRAMS or not to_nowhere_given


def test_every_room_has_a_floor_of_its_own():
    assert {room(p) for p in FILES} <= set(ROOMS) and len(set(ROOMS)) == len(ROOMS)


def test_light_verbs_do_not_load_torch():
    code = (
        "import sys, ditscale.cli, ditscale.laws, ditscale.plan.grid, ditscale.collect.table;"
        "import ditscale.launch.monitor.status;"
        "from ditscale.config import compose; compose(['study=paper']);"
        "assert 'torch' not in sys.modules and 'submitit' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)
