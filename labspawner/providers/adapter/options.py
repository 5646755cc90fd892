"""What an administrator may set for an adapter, and the Spawner class that it names."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from pkgutil import resolve_name
from typing import Any

from jupyterhub.spawner import Spawner
from pydantic import BaseModel, ConfigDict, Field

from labspawner.errors import BadConfig
from labspawner.sentences import Sentence

# Set by the adapter from the request; configuration of these would be lost without a word.
_OURS = frozenset({"cmd", "args", "environment", "env_keep", "start_timeout", "options_form", "poll_interval"})


class AdapterSettings(BaseModel):
    """Settings of one adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spawner_class: str = Field(
        min_length=1,
        description="The class: `package.module:Class`, `package.module.Class`, or its entry point's name, "
        "for example `simple` for jupyterhub's SimpleLocalProcessSpawner.",
    )
    config: dict[str, Any] = Field(
        default_factory=dict, description="Its traits, for example {home_dir_template: /srv/homes/{username}}."
    )
    variant_traits: tuple[str, ...] = Field(
        default=(), description="Traits that a profile's variant may set; all others are refused. Default: none."
    )
    max_servers: int | None = Field(
        default=None, ge=1, description="How many servers may run at once. Default: no limit."
    )
    poll_timeout_s: float = Field(
        default=5.0, gt=0, le=60, description="Seconds until a poll that does not answer counts as unknown."
    )


def spawner_class(name: str) -> type[Spawner]:
    """The class that `name` names. Raises BadConfig with a sentence where it cannot be had."""
    try:
        found = [point for point in entry_points(group="jupyterhub.spawners") if point.name == name]
        loaded = found[0].load() if found else resolve_name(name)
    except (ImportError, AttributeError, ValueError) as exc:
        raise BadConfig(
            Sentence(
                "spawner_class {name}: cannot be imported ({problem}). Install its package in the hub's environment, "
                "or correct the name.",
                name=name,
                problem=str(exc),
            )
        ) from exc
    if not (isinstance(loaded, type) and issubclass(loaded, Spawner)):
        raise BadConfig(Sentence("spawner_class {name}: is not a JupyterHub Spawner class.", name=name))
    return loaded


def check_traits(cls: type[Spawner], names: Mapping[str, Any] | tuple[str, ...], *, where: str) -> None:
    """Raises BadConfig when one of `names` is no configurable trait of `cls`, or is the adapter's own to set."""
    known = set(cls.class_trait_names(config=True))
    for name in names:
        if name in _OURS:
            raise BadConfig(
                Sentence("{where}: {name} is set by labspawner from the profile; leave it out.", where=where, name=name)
            )
        if name not in known:
            raise BadConfig(
                Sentence("{where}: {cls} has no setting {name}.", where=where, cls=cls.__name__, name=repr(name))
            )
