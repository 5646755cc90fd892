"""What this service knows of its hub's configuration. It travels in the environment: it may hold secrets, and a command
line is public on the machine."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from traitlets.config import Config

from labspawner.config import ENTRY_POINT_GROUP, Labspawner, Settings
from labspawner.errors import BadConfig
from labspawner.sentences import Sentence

log = logging.getLogger(__name__)

VARIABLE = "LABSPAWNER_DESKTOP"


@dataclass(frozen=True, slots=True, kw_only=True)
class DesktopSettings:
    """hub: as the hub has them, with those providers alone whose servers have a screen. novnc_dir: where the viewer is;
    empty: where npm or Debian put it."""

    hub: Mapping[str, Any] = field(repr=False)
    novnc_dir: str = ""

    def to_environment(self) -> dict[str, str]:
        """What the service's process is started with."""
        return {VARIABLE: json.dumps({"hub": dict(self.hub), "novnc_dir": self.novnc_dir})}

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> DesktopSettings:
        """Read it back. Raises BadConfig where it is missing or cannot be read."""
        try:
            data = json.loads(environment[VARIABLE])
            return cls(hub=dict(data["hub"]), novnc_dir=str(data.get("novnc_dir", "")))
        except (KeyError, ValueError, TypeError) as exc:
            raise BadConfig(
                Sentence(
                    "{name} is not set, or cannot be read: the hub sets it for a service made by {how}.",
                    name=VARIABLE,
                    how="wiring.run_desktop",
                )
            ) from exc

    def settings(self) -> Settings:
        """The hub's settings, checked again. Raises BadConfig."""
        return Labspawner(config=Config({"Labspawner": dict(self.hub)})).settings()


def of_hub(settings: Settings, *, novnc_dir: str | Path = "") -> DesktopSettings | None:
    """What the desktop service of this hub is told; None where no provider of it has screens."""
    providers = {name: dict(options) for name, options in settings.providers.items() if has_screens(name, options)}
    if not providers:
        return None
    return DesktopSettings(
        hub={
            "hub_id": settings.hub_id,
            "data_dir": str(settings.data_dir),
            "database_url": settings.database_url,
            "courses_dir": str(settings.courses_dir),
            "providers": providers,
        },
        novnc_dir=str(novnc_dir),
    )


def takes_desktop_url(name: str, options: Mapping[str, Any]) -> bool:
    """Whether a provider has servers that are nothing but a desktop, and so wants to know where this service is."""
    return getattr(_factory(name, options), "desktop_only", False) is True


def has_screens(name: str, options: Mapping[str, Any]) -> bool:
    """Whether a provider's servers may have a screen (see `contract.Consoling`), without building it. One that cannot be
    loaded has none here; the hub says what is wrong with it."""
    return callable(getattr(_factory(name, options), "console", None))


def _factory(name: str, options: Mapping[str, Any]) -> object:
    """What builds the provider; None where that cannot be loaded."""
    kind = str(options.get("kind", name))
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name == kind:
            try:
                return point.load()
            except ImportError as exc:
                log.warning("provider %s cannot be loaded: %s", name, exc)
    return None
