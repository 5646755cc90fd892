"""`python -m labspawner.extension hold 2h`: for environments that have the package and not the command."""

from __future__ import annotations

import sys

from labspawner.extension.hold import main

sys.exit(main(sys.argv[1:]))
