"""Names of jobs: a plain array is known by its command, before any of its elements has started."""

import pytest

from ditscale.launch.monitor.job_index import _first
from ditscale.launch.monitor.slurm_status import task_names
from ditscale.naming import StudyPaths
from ditscale.slurm_client import Job


@pytest.mark.parametrize(
    "command, first",
    [
        ("/x/slurm/train_array.sbatch study", 0),
        ("train_array.sbatch study", 0),
        ("/x/train_array.sbatch ./study/ 1001", 1001),
        ("/x/train_array.sbatch {root}", 0),
        ("/a b/train_array.sbatch {root} 7", 7),
        ("/x/train_array.sbatch other", None),
        ("/x/train_array.sbatch study more", None),
        ("/x/my_train_array.sbatch study", None),
        ("/x/aggregate.sbatch study", None),
        ("(null)", None),
    ],
)
def test_the_command_names_the_study(tmp_path, command, first):
    root = tmp_path / "a study" / "study"
    root.mkdir(parents=True)
    job = Job("5", 3, "PENDING", "None", "", "ditscale-train", str(root.parent), command.format(root=root))
    assert _first(job, StudyPaths(root)) == first


def test_a_study_whose_name_ends_in_a_number(tmp_path):
    root = tmp_path / "study 2"
    root.mkdir()
    job = Job("5", 3, "PENDING", "None", "", "x", str(tmp_path), "/x/train_array.sbatch study 2")
    assert _first(job, StudyPaths(root)) == 0


@pytest.mark.parametrize(
    "row, names",
    [
        ("12", ["12"]),
        ("12_3", ["12_3"]),
        ("12_[0-2]", ["12_0", "12_1", "12_2"]),
        ("12_[4]", ["12_4"]),
        ("12_[0,3-4,7%2]", ["12_0", "12_3", "12_4", "12_7"]),
    ],
)
def test_arrays_in_one_row_of_sacct(row, names):
    assert task_names(row) == names
