"""The double lives and ends: an unmodified KubeSpawner starts, watches and stops pods on it."""

from __future__ import annotations

import pytest

from labspawner.testing.kube import KubeDouble


def test_a_closed_double_can_be_closed_again(kube_double: KubeDouble) -> None:
    kube_double.close()
    kube_double.close()

    with pytest.raises(RuntimeError, match="closed"):
        kube_double.pods()
