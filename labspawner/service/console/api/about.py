"""Who asks, and what this API is."""

from __future__ import annotations

import json

from labspawner.service.console.api import models, openapi
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


class OpenApiHandler(ApiHandler):
    """The OpenAPI document; it is no secret."""

    async def prepare(self) -> None:
        """Nobody is asked who they are."""

    async def get(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-cache")
        self.finish(json.dumps(openapi.cached(self.house.prefix)))


ROUTES = (
    Route(
        path="openapi.json",
        handler=OpenApiHandler,
        operations={
            "get": Operation(name="describe", about="This document.", scope="", gives=models.HubFacts, public=True)
        },
    ),
    Route(
        path="me",
        handler=MeHandler,
        operations={"get": Operation(name="whoAmI", about="Who the token's owner is.", scope=SELF, gives=models.Me)},
    ),
)
