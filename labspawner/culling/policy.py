"""When a profile's servers are culled: what the course file said, as a lease pins it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from labspawner.model import Json, ReleaseMode
from labspawner.units import MAX_DURATION

_DURATIONS = ("after_s", "gpu_after_s", "max_age_s", "retain_s")
_MAX_S = MAX_DURATION.total_seconds()
_MAX_PER_DAY = 1000
_ACTIONS = tuple(mode.value for mode in ReleaseMode)
DEFAULT_HOLD_S = 4 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CullPolicy:
    """When a profile's servers are culled, and what is then done with them.

    after_s: seconds without use; None: idleness alone never culls.
    gpu_after_s: seconds without work of the GPU slice, where that is known; a busy kernel does not count.
    max_age_s: seconds since the start, busy or not; None: no limit.
    stuck_after_s: seconds that the hub may call one start or stop "pending"; None: no limit. The site's
      setting, not the profile's.
    warn_s: how long before the end the student is warned.
    extend_step_s, extend_per_day: what one click adds, and how many of them; None and 0: no clicks.
    hold_s: for how long in a day a student may keep an idle server; 0: not at all.
    retain_s: carried for the room that acts on it; `decide` does not read it.
    Raises ValueError unless every time is above 0 (hold_s: 0 or more) and at most ten years.
    """

    after_s: float | None = None
    gpu_after_s: float | None = None
    max_age_s: float | None = None
    stuck_after_s: float | None = None
    action: ReleaseMode = ReleaseMode.STOP
    retain_s: float | None = None
    warn_s: tuple[float, ...] = ()
    extend_step_s: float | None = None
    extend_per_day: int = 0
    hold_s: float = DEFAULT_HOLD_S

    def __post_init__(self) -> None:
        for name in (*_DURATIONS, "stuck_after_s", "extend_step_s"):
            if (value := getattr(self, name)) is not None:
                _seconds(name, value)
        for value in self.warn_s:
            _seconds("warn_s", value)
        if self.hold_s != 0:
            _seconds("hold_s", self.hold_s)
        _clicks("extend_per_day", self.extend_per_day)

    @classmethod
    def from_pinned(cls, pinned: Mapping[str, Json]) -> CullPolicy | None:
        """The policy in a lease's `pinned["cull"]`; None where the profile has none.

        A missing key has its default. Raises ValueError for a value of the wrong type, which names the key.
        """
        cull = pinned.get("cull")
        if cull is None:
            return None
        if not isinstance(cull, Mapping):
            raise ValueError(f"cull must be an object, not {cull!r}")
        action = cull.get("action", ReleaseMode.STOP.value)
        if action not in _ACTIONS:
            raise ValueError(f"cull.action must be one of {', '.join(_ACTIONS)}, not {action!r}")
        warn = cull.get("warn_s") or []
        if not isinstance(warn, list):
            raise ValueError(f"cull.warn_s must be a list of seconds, not {warn!r}")
        step_s, per_day = _extension(cull.get("extend"))
        hold = cull.get("hold_s", DEFAULT_HOLD_S)
        return cls(
            **{name: _optional_seconds(name, cull.get(name)) for name in _DURATIONS},
            action=ReleaseMode(action),
            warn_s=tuple(_seconds("warn_s", value) for value in warn),
            extend_step_s=step_s,
            extend_per_day=per_day,
            hold_s=0.0 if hold is None or hold == 0 else _seconds("cull.hold_s", hold),
        )

    @property
    def last_warning_s(self) -> float | None:
        """How long before the end the last warning comes; None where there is none."""
        return min(self.warn_s, default=None)


def _extension(extend: Json) -> tuple[float | None, int]:
    if extend is None:
        return None, 0
    if not isinstance(extend, Mapping):
        raise ValueError(f"cull.extend must be an object, not {extend!r}")
    return _seconds("cull.extend.step_s", extend.get("step_s")), _clicks(
        "cull.extend.per_day", extend.get("per_day", 4)
    )


def _seconds(name: str, value: object) -> float:
    # The comparison is False for NaN too.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MAX_S:
        raise ValueError(f"{name} must be a number of seconds above 0, at most ten years, not {value!r}")
    return value


def _optional_seconds(name: str, value: object) -> float | None:
    return None if value is None else _seconds(f"cull.{name}", value)


def _clicks(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_PER_DAY:
        raise ValueError(f"{name} must be a whole number from 0 to {_MAX_PER_DAY}, not {value!r}")
    return value
