"""Who a process is, by what each launcher sets; and what sets a part of it makes no ranks."""

import json
import os
import subprocess
import sys

import pytest

from ditscale.errors import UserError
from ditscale.process import Process, this_process

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "x"}
SRUN = {"SLURM_PROCID": "3", "SLURM_NTASKS": "6", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0", "SLURM_JOB_ID": "7"}
SUBMITIT = {"SUBMITIT_LOCAL_GLOBALID": "1", "SUBMITIT_LOCAL_NTASKS": "2", "SUBMITIT_LOCAL_LOCALID": "1"}


@pytest.mark.parametrize(
    "said, expected",
    [
        ({}, Process(attempt="----")),
        (TORCHRUN, Process(5, 8, 1, 4, "torchrun", attempt="x----")),
        (SRUN, Process(3, 6, 1, 6, "srun", job="7", attempt="--7--0")),
        (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "2(x3)"}, Process(3, 6, 1, 2, "srun", job="7", attempt="--7--0")),
        (SUBMITIT, Process(1, 2, 1, 2, "submitit", attempt="----")),
        # inside a job, submitit's local executor starts what is no part of the job
        (SRUN | SUBMITIT | {"SUBMITIT_LOCAL_JOB_ID": "9"}, Process(1, 2, 1, 2, "submitit", attempt="-9-7--0")),
        # a batch script's own process: one, whatever the job asked for
        ({k: v for k, v in SRUN.items() if k != "SLURM_STEP_ID"}, Process(job="7", attempt="--7--")),
        ({"RANK": "1"}, Process(attempt="----")),
        ({"SLURM_NTASKS": "4"}, Process(attempt="----")),
        (
            {"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "11", "SLURM_ARRAY_TASK_ID": "4", "SLURM_RESTART_COUNT": "2"},
            Process(job="11_4", restart=2, attempt="--12-2-"),
        ),
        (
            {"DITSCALE_PACKED": "3", "CUDA_VISIBLE_DEVICES": "1"},
            Process(attempt="----", gpus="1", packed=True, runs_per_gpu=3),
        ),
        ({"DITSCALE_GPUS": "", "CUDA_VISIBLE_DEVICES": ""}, Process(attempt="----", gpus="", assigned_gpus="")),
        ({"MASTER_ADDR": "node1"}, Process(attempt="----")),
        (TORCHRUN | {"MASTER_ADDR": "node1"}, Process(5, 8, 1, 4, "torchrun", attempt="x----", address="node1")),
        (
            {"SUBMITIT_EXECUTOR": "slurm", "SUBMITIT_FOLDER": "/jobs/1", "SLURM_CPUS_PER_TASK": "4"},
            Process(attempt="----", submitit="slurm", submitit_folder="/jobs/1", cpus=4),
        ),
    ],
)
def test_process(said, expected):
    assert this_process(said) == expected


@pytest.mark.parametrize("said", [{"WORLD_SIZE": "4"}, {"WORLD_SIZE": "4", "RANK": "0"}, TORCHRUN | {"RANK": "first"}])
def test_what_makes_no_sense_is_refused(said):
    with pytest.raises(UserError):
        this_process(said)


@pytest.mark.slow
@pytest.mark.parametrize("stray", [{"RANK": "1"}, {"SLURM_NTASKS": "4"}])
def test_a_stray_variable_makes_no_ranks(one_run, stray):
    """`ditscale run` claims its attempt, as the one rank that it is."""
    run_dir = one_run("budgets=[1e9]")
    env = os.environ | stray
    done = subprocess.run(
        [sys.executable, "-m", "ditscale", "run", str(run_dir)], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.endswith("finished\n"), done.stderr
    attempt = json.loads((run_dir / "attempts" / "0001.json").read_text())
    assert (attempt["ranks"], attempt["ended"]) == (1, "finished")
