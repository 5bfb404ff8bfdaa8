"""tests/early: its folder holds early_synthetic.py, which the tests import."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
