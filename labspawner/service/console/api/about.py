"""Who asks, and what this API is."""

from __future__ import annotations

from labspawner.service.console.api import models
from labspawner.service.console.api.base import ApiHandler
from labspawner.service.console.api.route import Operation, Route
from labspawner.service.console.rights import SELF, Verb, may


class MeHandler(ApiHandler):
    """Who asks, as JupyterHub knows them."""

    async def get(self) -> None:
        caller = self.caller
        self.give(
            models.Me(
                name=caller.name,
                service=caller.service,
                admin=caller.admin,
                may_create=may(caller, Verb.CREATE, rules=self.house.rules),
                groups=sorted(caller.groups),
            )
        )


ROUTES = (
    Route(
        path="me",
        handler=MeHandler,
        operations={"get": Operation(name="whoAmI", about="Who the token's owner is.", scope=SELF, gives=models.Me)},
    ),
)
