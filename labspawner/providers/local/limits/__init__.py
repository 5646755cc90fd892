"""What servers may use of the machine, and what they do use: control groups, scopes, resource limits, disk quota."""

from labspawner.providers.local.limits.groups import Group, GroupMaker, Groups, Probed
from labspawner.providers.local.limits.probing import probe
from labspawner.providers.local.limits.quota import Quotas, probe_quota
from labspawner.providers.local.limits.scope import Scopes, probe_scopes
from labspawner.providers.local.limits.usage import usage_now

__all__ = [
    "Group",
    "GroupMaker",
    "Groups",
    "Probed",
    "Quotas",
    "Scopes",
    "probe",
    "probe_quota",
    "probe_scopes",
    "usage_now",
]
