"""Runs as jobs of a Hydra multirun over run ids, through any Hydra launcher (sweep.py plans the runs)."""

import io
import os
import shutil
import signal
import sys
import traceback
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from submitit.core.utils import UncompletedJobError

from ...config import Cluster
from ...errors import UserError
from ...naming import StudyPaths
from ...process import this_process
from ..job.execute import execute
from .preamble import clean_environment, preamble
from .slurm_array import refused
from .submission import Submission

SUBMITIT = "hydra_plugins.hydra_submitit_launcher.submitit_launcher."


def job(composed: Any) -> str:
    """What each Hydra job executes: one run, as other jobs do (launch/job/execute.py). Returns how it ended."""
    try:
        state = execute(str(StudyPaths(composed.study_dir).run(composed.run).root))
    except Exception:  # failure.json has it. Hydra would return it at the end, and the Slurm job would be COMPLETED.
        traceback.print_exc()
        state = "failed"
        if this_process().job:
            raise SystemExit(1) from None
    if state == "stopped" and not this_process().submitit:
        raise KeyboardInterrupt  # The sweep itself was told to stop: the other points must not start.
    return state


@dataclass(frozen=True)
class Launcher:
    """A Hydra launcher: the overrides about Hydra, the user's configuration groups, and what Hydra composes."""

    words: list[str]
    configs: Path | None
    settings: dict[str, Any]

    @property
    def is_slurm(self) -> bool:
        return self.settings["_target_"] == f"{SUBMITIT}SlurmLauncher"

    @property
    def ranks(self) -> int:
        return self.settings["nodes"] * self.settings["tasks_per_node"]

    def threads(self, cluster: Cluster) -> int:
        return self.settings["cpus_per_task"] or cluster.threads

    def run_here(self, paths: StudyPaths, at: Path, runs: list[str]):
        """Train the runs through a launcher that waits for them; its files go to `at`."""
        words = [f"hydra.launcher.submitit_folder={quoted(at.resolve())}"]
        with suppress(UncompletedJobError):  # A process was killed; the runs' own files say which.
            self._multirun(paths, at, runs, words if self.settings["_target_"].startswith(SUBMITIT) else [])

    def submit(self, paths: StudyPaths, submission: Submission, cluster: Cluster) -> str:
        """Submit the runs as one array; returns its number. Hydra's launcher, which would wait, is left then."""
        at = paths.jobs / submission.token

        def look(*_):
            if len(list(at.glob("*_submitted.pkl"))) == len(submission.runs):
                signal.setitimer(signal.ITIMER_REAL, 0)
                raise _Submitted

        before = signal.signal(signal.SIGALRM, look)
        signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
        try:
            with redirect_stderr(io.StringIO()):  # submitit prints once more what sbatch says.
                self._multirun(paths, at, list(submission.runs), self._slurm_words(at, submission, cluster))
        except _Submitted:
            pass
        except Exception as error:
            if not any(at.glob("*_submission.sh")):  # submitit writes this once sbatch has answered.
                shutil.rmtree(at, ignore_errors=True)
            raise refused(error, at, submission) from None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        return next(at.glob("*_submitted.pkl")).name.split("_")[0]

    def _slurm_words(self, at: Path, submission: Submission, cluster: Cluster) -> list[str]:
        """Overrides of hydra-submitit-launcher that make its jobs equal to the others (slurm_array.py)."""
        threads = self.threads(cluster)
        setup = preamble(submission.code, threads, self.settings["setup"] or [])
        return [
            f"hydra.launcher.name={submission.name}",
            f"hydra.launcher.submitit_folder={quoted(at.resolve())}",
            f"hydra.launcher.cpus_per_task={threads}",
            f"hydra.launcher.setup=[{','.join(map(quoted, setup))}]",
            "hydra.launcher.stderr_to_stdout=true",
            "hydra.launcher.max_num_timeout=1000000",  # Also a signal before the run listens requeues it.
            "++hydra.launcher.additional_parameters.requeue=true",
        ]

    def _multirun(self, paths: StudyPaths, at: Path, runs: list[str], words: list[str]):
        words = [*words, f"hydra.sweep.dir={quoted(at.resolve())}", f"study_dir={quoted(paths.root.resolve())}"]
        before, sys.argv = sys.argv, [sys.argv[0], "--multirun", *self.words, *words, f"run={','.join(runs)}"]
        if self.configs:
            sys.argv += ["--config-dir", str(self.configs.resolve())]
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Errors come to us unchanged.
        try:
            with _hydra_errors(self.words), clean_environment():
                hydra.main(version_base="1.3", config_path=None, config_name="ditscale-sweep")(job)()
        finally:
            sys.argv = before


class _Submitted(BaseException):
    """The array is submitted."""


def read_launcher(words: list[str], configs: Path | None) -> Launcher:
    """The launcher that the overrides ask for. Raises UserError where Hydra cannot compose it."""
    whole = {  # Hydra's configuration of a job. It is code, so that a pending job does not depend on files.
        "defaults": ["_self_", {"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}],
        "study_dir": "???",
        "run": "???",
        "hydra": {"output_subdir": None, "job": {"name": "sweep"}, "sweep": {"subdir": "."}},
    }
    ConfigStore.instance().store("ditscale-sweep", whole)
    if configs is not None and not configs.is_dir():
        raise UserError(f"--config-dir {configs}: there is no such directory")
    at = hydra.initialize_config_dir(str(configs.resolve()), version_base="1.3") if configs else None
    with _hydra_errors(words), at or hydra.initialize(None, version_base="1.3"):
        composed = hydra.compose("ditscale-sweep", words, return_hydra_config=True)
        # Values that depend on the directory of the sweep are ours, and are not resolved here.
        settings: Any = OmegaConf.to_container(composed.hydra.launcher, resolve=False)
    return Launcher(words, configs, settings)


@contextmanager
def _hydra_errors(words: list[str]) -> Iterator[None]:
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        wanted = next((word for word in words if word.startswith("hydra/launcher=")), "")
        if wanted and "Could not find" in str(error):
            come = "and submitit_local come with `pip install 'ditscale[sweep]'` (hydra-submitit-launcher)"
            raise UserError(f"{wanted}: Hydra has no such launcher here; submitit_slurm {come}") from None
        raise UserError(str(error).split("Available options")[0]) from None


def quoted(value: object) -> str:
    """A value that Hydra's grammar leaves unchanged."""
    text = str(value).replace("'", "\\'")
    return f"'{text}'"
