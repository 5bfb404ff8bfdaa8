"""python -m ditscale.launch.job RUN_DIR"""

import sys

from .execute import execute

execute(sys.argv[1])
