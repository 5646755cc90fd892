"""What servers may use of the machine, and what they do use: control groups, scopes, resource limits, disk quota."""

from labspawner.providers.local.limits.groups import Group, Groups
from labspawner.providers.local.limits.probing import Probed, probe

__all__ = ["Group", "Groups", "Probed", "probe"]
