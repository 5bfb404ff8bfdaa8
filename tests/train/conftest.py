"""Runs of several real ranks, and what their records hold."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml


class Ranks:
    """A run in its ranks' processes. `pids`, by rank; `wait` returns [(exit status, output), ...]."""

    def __init__(self, server, run_dir, world, per_node, env, short):
        self.server, self.run_dir = server, run_dir
        job = {"run": str(run_dir), "world": world, "per_node": per_node or world, "env": env, "short": short}
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        self.pids = json.loads(server.stdout.readline())

    def wait(self):
        ends = json.loads(self.server.stdout.readline())
        # some versions of torch tell of every meeting
        return [(status, re.sub(r"\[Gloo\].*\n", "", text)) for status, text in ends]

    def reached(self, images, seconds=300):
        """Wait until the record holds so many images."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                with h5py.File(self.run_dir / "metrics.h5", "r", locking=False) as file:
                    if file["steps"]["images"].max() >= images:
                        return
            except (OSError, KeyError):
                pass
            time.sleep(0.02)
        raise AssertionError(f"never reached {images} images")


@pytest.fixture
def logged(caplog, monkeypatch):
    """What ditscale logs in this process, down to INFO, whether or not an earlier test has called logs.show()."""
    monkeypatch.setattr(logging.getLogger("ditscale"), "propagate", True)
    caplog.set_level(logging.INFO, "ditscale")
    return caplog


@pytest.fixture(scope="session")
def server():
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("forked.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def on_ranks(server):
    """Start a run on `world` ranks, `per_node` to a node; its execution is changed as `execution` says. short: a rank,
    and of how many images a pass is all that its memory holds."""

    def begin(run_dir, world, per_node=None, env=None, short=None, **execution):
        path = Path(run_dir) / "run.yaml"
        content = yaml.safe_load(path.read_text())
        content["execution"] |= execution
        path.write_text(yaml.safe_dump(content))
        return Ranks(server, run_dir, world, per_node, env or {}, short)

    return begin


@pytest.fixture
def copy_of():
    """A copy of a run's directory beside it."""

    def copy(run_dir, name):
        return Path(shutil.copytree(run_dir, run_dir.parent / name))

    return copy


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 600 KiB."""
    at = tmp_path / "small"
    at.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(at)], capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield at
    subprocess.run(["umount", str(at)], check=True)


def content(run_dir) -> dict[str, np.ndarray]:
    """What training decided: the record's rows without times, and every validation triple's loss."""
    with h5py.File(run_dir / "metrics.h5", "r", locking=False) as f:
        steps = f["steps"][:]
        return {k: steps[k] for k in ("images", "loss", "loss_ema", "grad_norm", "lr")} | {"samples": f["samples"][:]}


@pytest.fixture(name="content")
def content_fixture():
    return content


@pytest.fixture(scope="session")
def start():
    """Start `ditscale run`, alone or on ranks of torchrun; returns the process."""

    def begin(run_dir, ranks=1):
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        words = ["-m", "ditscale", "run", str(run_dir)]
        if ranks > 1:
            words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), *words]
        return subprocess.Popen(
            [sys.executable, *words], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return begin
