"""`labspawner doctor`: what an operator runs before the first class."""

from labspawner.cli.doctor.command import doctor

__all__ = ["doctor"]
