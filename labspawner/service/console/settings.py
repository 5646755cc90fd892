"""What the console knows of its hub's configuration. It travels in the environment: it may hold secrets, and a command
line is public on the machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from traitlets.config import Config

from labspawner.config import Labspawner, Settings
from labspawner.errors import BadConfig
from labspawner.sentences import Sentence

VARIABLE = "LABSPAWNER_CONSOLE"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleSettings:
    """hub: `c.Labspawner` as the hub has it, but for the providers' settings, which hold secrets: of those the names alone.
    creates_users: names of rosters that the hub does not know become users at once. listen: the URL at which the process
    listens; empty: the one that the hub's proxy asks."""

    hub: Mapping[str, Any] = field(repr=False)
    creates_users: bool = False
    listen: str = ""

    def to_environment(self) -> dict[str, str]:
        """What the service's process is started with."""
        told = {"hub": dict(self.hub), "creates_users": self.creates_users, "listen": self.listen}
        return {VARIABLE: json.dumps(told)}

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> ConsoleSettings:
        """Read it back. Raises BadConfig where it is missing or cannot be read."""
        try:
            data = json.loads(environment[VARIABLE])
            return cls(
                hub=dict(data["hub"]),
                creates_users=bool(data.get("creates_users")),
                listen=str(data.get("listen") or ""),
            )
        except (KeyError, ValueError, TypeError) as exc:
            raise BadConfig(
                Sentence(
                    "{name} is not set, or cannot be read: the hub sets it for a service made by {how}.",
                    name=VARIABLE,
                    how="wiring.run_console",
                )
            ) from exc

    def settings(self) -> Settings:
        """The hub's settings, checked again; providers without their settings. Raises BadConfig."""
        return Labspawner(config=Config({"Labspawner": dict(self.hub)})).settings()


def of_hub(given: Labspawner, *, creates_users: bool = False, listen: str = "") -> ConsoleSettings:
    """What the console of this hub is told. Raises BadConfig."""
    settings = given.settings()
    return ConsoleSettings(
        hub={
            "hub_id": settings.hub_id,
            "data_dir": str(settings.data_dir),
            "database_url": settings.database_url,
            "courses_dir": str(settings.courses_dir),
            "courses_refresh_s": settings.courses_refresh_s,
            "providers": {name: {} for name in settings.providers},
            **{
                name: getattr(given, name)
                for name in ("console_settings", "console_images", "console_limits", "console_creators")
                if given.has_trait(name)
            },
        },
        creates_users=creates_users,
        listen=listen,
    )
