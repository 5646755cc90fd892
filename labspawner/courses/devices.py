"""What a passed-through device of a virtual machine forbids, told when the course file is read. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from labspawner.sentences import Sentence

NO_SLICE = Sentence(
    "a virtual machine gets a whole GPU or a vGPU, no slice: instead of gpu write "
    "settings: {pci: {mapping: NAME}} or settings: {pci: {mapping: NAME, type: nvidia-231}}"
)
NO_HIBERNATE = Sentence(
    "a virtual machine with a passed-through device (pci) cannot be hibernated, since the device's own memory would be "
    "lost: write action: stop"
)


def passes_through(settings: Mapping[str, object]) -> bool:
    """Whether a server with these settings of a variant holds a device of its host."""
    return bool(settings.get("pci"))


def check_hibernation(action: str, every_settings: Iterable[Mapping[str, object]]) -> None:
    """Raises ValueError where servers with any of these settings are to be hibernated and cannot be."""
    if action == "hibernate" and any(passes_through(settings) for settings in every_settings):
        raise ValueError(NO_HIBERNATE)
