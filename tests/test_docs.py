"""The documents are true: files, names, floors and links that they mention exist."""

import ast
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
EXPLAINED = [path for path in DOCS if path.parent.name != "measured"]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
FILE = re.compile(r"[\w.-]+(/[\w.-]+)*(/|\.(py|md|yaml|sbatch|cff|toml|txt))")


def floors():
    """tests/test_floors.py as a module: it has the list of rooms."""
    spec = spec_from_file_location("floors", ROOT / "tests" / "test_floors.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drawn(number: int) -> list[str]:
    """The rooms of a drawing of architecture.md, from the ground up."""
    block = re.findall(r"```text\n(.*?)```", ARCHITECTURE, re.DOTALL)[number]
    lines = [line for line in reversed(block.splitlines()) if not line.startswith("---")]
    return [name for line in lines for name in reversed(line.split("  ")[0].split())]


def section(title: str) -> str:
    return ARCHITECTURE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
    return {heading.strip().replace(" ", "-") for heading in plain}


def resolved(name: str) -> Path | None:
    """A file or folder that a document mentions: of the repository, of the package, or of the docs."""
    return next((at / name for at in (ROOT, ROOT / "ditscale", ROOT / "docs") if (at / name).exists()), None)


def test_the_drawing_shows_the_floors():
    assert drawn(0) == floors().ROOMS
    assert drawn(1) == floors().LAWS


def test_the_reading_path_is_twelve_files_for_an_afternoon():
    paths = re.findall(r"^\d+\. \[[^\]]+\]\(\.\./(ditscale/[^)]+\.py)\)", section("Reading path"), re.MULTILINE)
    assert len(paths) == len(set(paths)) == 12
    assert 1500 <= sum(len((ROOT / path).read_text().splitlines()) for path in paths) <= 3000


def test_architecture_names_files_that_exist():
    names = {name.split("::")[0] for name in CODE.findall(ARCHITECTURE) if FILE.fullmatch(name.split("::")[0])}
    of_a_study = (ROOT / "ditscale" / "naming.py").read_text()
    assert len(names) > 30
    assert not [name for name in names if resolved(name) is None and f'"{name}"' not in of_a_study]


def test_architecture_names_functions_that_exist():
    """`file.py::name` is a function, a class or a constant at the top of that file."""
    named = [name.split("::") for name in CODE.findall(ARCHITECTURE) if "::" in name]
    assert len(named) > 15
    wrong = []
    for file, name in named:
        path, defined = resolved(file), set()
        for node in ast.parse(path.read_text()).body if path else ():
            defined |= {node.name} if hasattr(node, "name") else set()
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            defined |= {each.id for target in targets if target for each in ast.walk(target) if hasattr(each, "id")}
        if name not in defined:
            wrong.append(f"{file}::{name}")
    assert not wrong


def paragraphs(text: str) -> list[str]:
    """Paragraphs and points of lists, as one line each; without code, tables, headings and addresses of links."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"^( {4}|#|\||!\[).*$", "", text, flags=re.MULTILINE)
    points = re.sub(r"^ *([*-]|\d+\.) ", "\n", text, flags=re.MULTILINE)
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", points) if part.strip()]


@pytest.mark.parametrize("path", EXPLAINED, ids=lambda path: str(path.relative_to(ROOT)))
def test_sentences_are_short(path):
    """Nine of ten sentences have at most 28 words, and a paragraph has fewer than 90: CONTRIBUTING.md says so."""
    whole = paragraphs(path.read_text())
    sentences = [s for p in whole for s in re.split(r"(?<=[.!?])[*_)]*\s+(?=[A-Z0-9`*(])", p)]
    long = [s for s in sentences if len(s.split()) > 28]
    assert len(long) <= 0.1 * len(sentences), long
    assert not [p for p in whole if len(p.split()) >= 90]


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_files(path):
    """Relative links lead to files and to headings in them. Files that are named with their folder exist, where the
    folder is one of ours."""
    named = [name for name in CODE.findall(path.read_text()) if "/" in name and FILE.fullmatch(name)]
    assert not [name for name in named if resolved(name.split("/")[0]) and resolved(name) is None]
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    wrong = []
    for link in LINK.findall(text):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        there = (path.parent / target).resolve() if target else path
        if not there.exists() or anchor and anchor not in anchors(there):
            wrong.append(link)
    assert not wrong


def test_documents_that_the_source_mentions_exist():
    sources = [path for at in ("ditscale", "configs", "tools", "slurm") for path in (ROOT / at).rglob("*")]
    kinds = (".py", ".yaml", ".sbatch", ".sh", "")
    texts = {path: path.read_text() for path in sources if path.is_file() and path.suffix in kinds}
    wrong = {
        f"{path.relative_to(ROOT)}: {name}"
        for path, text in texts.items()
        for name in re.findall(r"docs/[\w/-]+\.md", text)
        if not (ROOT / name).is_file()
    }
    assert not wrong


def test_commands_of_the_readme_paste():
    """They are whole: no placeholders, no comments, brackets quoted; tools, verbs and modules exist."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) > 15
    help_text = subprocess.run([sys.executable, "-m", "ditscale", "--help"], capture_output=True, text=True).stdout
    for line in lines:
        assert not re.search(r"\.\.\.|<|#", line), line
        assert not re.search(r"[\[\]*?]", re.sub(r"'[^']*'", "", line)), line
        words = shlex.split(line)
        if words[0].startswith("tools/"):
            assert (ROOT / words[0]).is_file(), line
        elif words[0] == "ditscale" and not words[1].startswith("--"):
            assert re.search(rf"\b{words[1]}\b", help_text), line
        elif words[:2] == ["python", "-m"]:
            assert find_spec(words[2]), line
