"""labspawner: every student of a course gets an own environment on a few shared servers."""

__version__ = "0.1.0"
