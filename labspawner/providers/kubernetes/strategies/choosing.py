"""The strategy that the settings name, and the one that a cluster seems to have. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from labspawner.errors import BadConfig
from labspawner.gpu.agent.inventory import ANNOTATION, RESOURCE_DOMAIN, RESOURCE_PREFIX
from labspawner.providers.kubernetes.strategies.contract import Strategy
from labspawner.providers.kubernetes.strategies.device_plugin import DevicePlugin
from labspawner.providers.kubernetes.strategies.hami import Hami
from labspawner.providers.kubernetes.strategies.hami_config import with_device_config
from labspawner.providers.kubernetes.strategies.hami_notes import REGISTER
from labspawner.providers.kubernetes.strategies.none import NoGpus
from labspawner.providers.kubernetes.strategies.options import SlicingSettings
from labspawner.providers.kubernetes.views import NodeView
from labspawner.sentences import Sentence


def strategy(settings: SlicingSettings, *, device_config: str = "") -> Strategy:
    """What `settings.strategy` names. device_config: the text of HAMi's device config, where it was read.

    Raises BadConfig where that text cannot be read, and for a strategy that lacks what it needs."""
    if settings.strategy == "hami":
        hami = with_device_config(settings.hami, device_config) if device_config else settings.hami
        return Hami(hami, settings.place)
    if settings.strategy == "device-plugin":
        if not settings.classes:
            raise BadConfig(
                Sentence(
                    "gpu.classes is empty: write the sizes of slices that the node agents offer, for example {example}",
                    example="{'small': {'memory': '6GiB', 'cores': 25}}",
                )
            )
        return DevicePlugin(settings.classes)
    return NoGpus()


def seen(nodes: Sequence[NodeView]) -> dict[str, tuple[str, ...]]:
    """Which strategies the nodes show signs of, and which nodes: `hami`, `device-plugin`, and `whole` for cards that are
    given away whole by NVIDIA's plugin."""
    hami = [node.name for node in nodes if REGISTER in node.annotations]
    ours = [node.name for node in nodes if ANNOTATION in node.annotations or _offers_classes(node)]
    whole = [
        node.name for node in nodes if node.allocatable.get("nvidia.com/gpu", 0) > 0 and node.name not in {*hami, *ours}
    ]
    found = {"hami": hami, "device-plugin": ours, "whole": whole}
    return {name: tuple(names) for name, names in found.items() if names}


def _offers_classes(node: NodeView) -> bool:
    return any(name.startswith(f"{RESOURCE_DOMAIN}/{RESOURCE_PREFIX}") for name in node.allocatable)
