"""What is used of a slice, from its region. The student's processes write that, so no figure is believed beyond sense."""

from __future__ import annotations

from datetime import datetime, timezone
from logging import getLogger

from labspawner.gpu import region, words
from labspawner.gpu.folder import SliceFolder
from labspawner.gpu.limits import MAX_MEMORY_BYTES, BadLimits
from labspawner.gpu.selftest import COMMAND
from labspawner.model import GpuRefusal, GpuUsage

log = getLogger(__name__)

_MOST_S = 10 * 366 * 86400.0


def usage_of(folder: SliceFolder, now: datetime | None = None) -> GpuUsage | None:
    """What a slice was used for so far; None where its files cannot be read. Blocks for a fraction of a millisecond."""
    now = now or datetime.now(timezone.utc)
    try:
        limits = folder.read()
        made_at = datetime.fromtimestamp(folder.limits.stat().st_mtime, timezone.utc)
        reading = region.read(folder.region)
    except (OSError, BadLimits, ValueError, OverflowError) as exc:  # the last two: figures that make no sense
        log.debug("cannot tell what a slice is used for folder=%s: %s", folder.root, exc)
        return None
    device = reading.devices[0]
    last_launch = min(device.last_launch, now) if device.last_launch else made_at
    return GpuUsage(
        memory_bytes=min(device.used_bytes, MAX_MEMORY_BYTES),
        memory_limit_bytes=limits.devices[0].memory_bytes,
        time_s=min(device.gpu_time_s, _MOST_S),
        last_busy=max(last_launch, made_at),
        refused=_refused(reading, limits.devices[0].memory_bytes, now),
    )


def _refused(reading: region.Reading, limit_bytes: int, now: datetime) -> GpuRefusal | None:
    """The last refusal, in words that state this slice's own limit; those that a self-test wanted do not count."""
    wanted = [refusal for refusal in reading.refusals if refusal.command != COMMAND]
    if not wanted or not reading.refusal_count:
        return None
    last = wanted[-1]
    if last.limit_bytes != limit_bytes and not 0 < last.limit_bytes <= MAX_MEMORY_BYTES:
        return None
    return GpuRefusal(
        at=min(last.at, now),
        count=max(reading.refusal_count, 1),
        words=words.is_full(last),
        hints=words.hints(last),
    )
