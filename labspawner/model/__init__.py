"""What the rooms tell each other: frozen values, valid by construction, no behaviour beyond their own meaning."""

from __future__ import annotations

from labspawner.model.launching import (
    Checkpoint,
    Event,
    LaunchRequest,
    OwnedResource,
    Progress,
    Ready,
)
from labspawner.model.lease import (
    Decision,
    Ending,
    Lease,
    Reservation,
)
from labspawner.model.names import (
    LIVE_PHASES,
    CourseRole,
    CourseState,
    Feature,
    Handle,
    Json,
    LeaseId,
    Phase,
    ReleaseMode,
    ServerState,
)
from labspawner.model.resources import (
    Capacity,
    CardCapacity,
    CardPolicy,
    HeldSlice,
    HostCapacity,
    Resources,
    Slice,
    SliceTest,
)
from labspawner.model.use import (
    Activity,
    Evidence,
    GpuRefusal,
    GpuUsage,
    HostLook,
    Usage,
    Work,
    WorkKind,
)

__all__ = [
    "LIVE_PHASES",
    "Activity",
    "Capacity",
    "CardCapacity",
    "CardPolicy",
    "Checkpoint",
    "CourseRole",
    "CourseState",
    "Decision",
    "Ending",
    "Event",
    "Evidence",
    "Feature",
    "GpuRefusal",
    "GpuUsage",
    "Handle",
    "HeldSlice",
    "HostCapacity",
    "HostLook",
    "Json",
    "LaunchRequest",
    "Lease",
    "LeaseId",
    "OwnedResource",
    "Phase",
    "Progress",
    "Ready",
    "ReleaseMode",
    "Reservation",
    "Resources",
    "ServerState",
    "Slice",
    "SliceTest",
    "Usage",
    "Work",
    "WorkKind",
]
