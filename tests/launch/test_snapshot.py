import os
import subprocess
import sys
from pathlib import Path

import pytest

from ditscale.errors import UserError
from ditscale.launch import snapshot as module
from ditscale.launch.local import _importing_from
from ditscale.launch.snapshot import snapshot


def test_the_copy_is_whole_and_is_what_gets_imported(tmp_path):
    source = snapshot(tmp_path / "code")
    originals = {p.relative_to(module.PACKAGE.parent): p.read_bytes() for p in module.PACKAGE.rglob("*.py")}
    assert {p.relative_to(source): p.read_bytes() for p in source.rglob("*.py")} == originals
    assert snapshot(tmp_path / "code") == source and len(os.listdir(tmp_path / "code")) == 1
    with _importing_from(source):  # even from the checkout itself
        found = subprocess.run([sys.executable, "-c", "import ditscale; print(ditscale.__file__)"], cwd=module.PACKAGE.parent, capture_output=True, text=True)
    assert Path(found.stdout.strip()) == source.resolve() / "ditscale" / "__init__.py"
    assert os.environ.get("PYTHONSAFEPATH") is None


def test_other_source_is_another_copy(tmp_path, monkeypatch):
    first = snapshot(tmp_path / "code")
    other = tmp_path / "ditscale"
    other.mkdir()
    (other / "__init__.py").write_text("edited = True\n")
    monkeypatch.setattr(module, "PACKAGE", other)
    assert snapshot(tmp_path / "code") != first


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "code").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        snapshot(tmp_path / "code")
