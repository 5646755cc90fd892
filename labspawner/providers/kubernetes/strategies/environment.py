"""Variables of a container that decide about cards: who sets one of them decides whether a slice holds. Pure."""

from __future__ import annotations

from collections.abc import Iterable

NO_CARD = {"NVIDIA_VISIBLE_DEVICES": "none"}
"""What keeps a pod without a slice from the cards of its node, where the container runtime shows them all."""

_FORBIDDEN_PREFIXES = ("CUDA_DEVICE_", "LD_", "LIBCUDA_", "LABSPAWNER_")
_FORBIDDEN = frozenset(
    {
        *("CUDA_DISABLE_CONTROL", "CUDA_VISIBLE_DEVICES", "CUDA_OVERSUBSCRIBE", "CUDA_TASK_PRIORITY"),
        *("NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "NVIDIA_REQUIRE_CUDA", "NVIDIA_DISABLE_REQUIRE"),
        *("GPU_CORE_UTILIZATION_POLICY", "ACTIVE_OOM_KILLER"),
    }
)


def forbidden(names: Iterable[str]) -> tuple[str, ...]:
    """Those of `names` that a profile may never set: with them a server could leave its slice."""
    return tuple(name for name in names if name in _FORBIDDEN or name.startswith(_FORBIDDEN_PREFIXES))
