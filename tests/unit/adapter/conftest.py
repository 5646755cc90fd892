"""The Spawner classes of these tests are named in settings, so they must be importable by name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
