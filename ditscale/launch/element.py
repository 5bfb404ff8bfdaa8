"""Old copies of slurm/train_array.sbatch call this. It prints the directory of the task's run, then the source's."""

import sys

from ..errors import UserError
from .job.array_task import array_task

if __name__ == "__main__":
    try:
        at, code = array_task(sys.argv[1], int(sys.argv[2]))
    except UserError as error:
        sys.exit(f"ditscale: error: {error}")
    print(at.root, code, sep="\n")
