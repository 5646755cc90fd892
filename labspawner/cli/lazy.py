"""A group of commands that are imported when somebody types them: `labspawner run` needs no hub and no cluster."""

from __future__ import annotations

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any

import click


class LazyGroup(click.Group):
    """commands_at: name -> `module:attribute` of its command. What prints help, or lists names, imports them as well."""

    def __init__(self, *args: Any, commands_at: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._commands_at = dict(commands_at)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._commands_at})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._commands_at:
            return super().get_command(ctx, cmd_name)
        command = resolve_name(self._commands_at[cmd_name])
        assert isinstance(command, click.Command)
        return command
