"""What an operator asks before the first class: will servers start? `labspawner doctor` prints it, the console shows it."""

from __future__ import annotations

from labspawner.doctor.examination import HUB, Examination, Examiner

__all__ = ["HUB", "Examination", "Examiner"]
