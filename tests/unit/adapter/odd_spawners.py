"""Spawner classes as others might write them."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from jupyterhub.spawner import SimpleLocalProcessSpawner, Spawner
from tornado import web
from traitlets import Unicode


class Elsewhere(Spawner):
    """Runs its servers on some other machine, which is a dict here."""

    host: ClassVar[dict[str, str]] = {}
    where = Unicode("http://127.0.0.1:1", config=True)
    mood = Unicode("good", config=True)

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.job = state.get("job", "")

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), **({"job": self.job} if getattr(self, "job", "") else {})}

    async def start(self) -> str:
        if self.mood == "words":
            error = web.HTTPError(400, "internal detail")
            error.jupyterhub_message = "The cluster is closed on Sundays."  # type: ignore[attr-defined]
            raise error
        if self.mood == "crash":
            raise RuntimeError("secret detail")
        self.job = f"job-{self.user.name}"
        self.host[self.job] = self.get_env()["JUPYTERHUB_SERVICE_URL"]
        while self.mood == "slow":
            await asyncio.sleep(0.01)
        return self.where

    async def stop(self, now: bool = False) -> None:
        if self.mood == "immortal":
            raise RuntimeError("cannot stop")
        self.host.pop(self.job, None)

    async def poll(self) -> int | None:
        if self.mood == "silent":
            await asyncio.sleep(1000)
        if self.mood == "angry":
            raise RuntimeError("host down")
        return None if getattr(self, "job", "") in self.host else 0


class Halfway(SimpleLocalProcessSpawner):
    """Has begun its process and never comes back from starting it; what was begun it leaves to others."""

    async def start(self) -> None:
        await super().start()
        await asyncio.Event().wait()

    async def stop(self, now: bool = False) -> None:
        pass


class Unbuildable(SimpleLocalProcessSpawner):
    """Cannot be made on this machine."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        raise RuntimeError("no kube config")
