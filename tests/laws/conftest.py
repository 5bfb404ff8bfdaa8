import sys
from pathlib import Path

# The tests have no packages (import mode importlib), so shared helpers are found by folder.
sys.path.insert(0, str(Path(__file__).parent))
