"""The local provider on a machine with three cards, also in a child process of the kit."""

from __future__ import annotations

from collections.abc import Mapping

from gpudouble import NvmlDouble, a_card

from labspawner.model import Json
from labspawner.providers.contract import ProviderContext
from labspawner.providers.local import LocalProvider as Local


class LocalProvider(Local):
    """Knows cards that answer as NVML does. One card where places are scarce."""

    def __init__(self, context: ProviderContext, settings: Mapping[str, Json]) -> None:
        gpu = settings.get("gpu")
        scarce = isinstance(gpu, dict) and "splits" in gpu
        cards = NvmlDouble(cards=[a_card(index) for index in range(1 if scarce else 3)])
        super().__init__(context, settings, open_nvml=cards.open)
