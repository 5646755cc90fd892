"""`pods/x/log`: what a container wrote, and why there is nothing yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from aiohttp import web

from labspawner.testing.kube.resources import PODS, Json
from labspawner.testing.kube.routes import Call
from labspawner.testing.kube.statuses import bad_request, not_found
from labspawner.testing.kube.world import World


class LogOf(Protocol):
    """Where the log of a container lies, and whether more may come; None where it never ran."""

    def __call__(self, uid: str, container: str, *, previous: bool) -> tuple[Path, Callable[[], bool]] | None: ...


async def serve(request: web.Request, call: Call, world: World, log_of: LogOf) -> web.StreamResponse:
    """The log as text; with `follow` until the container ends. Raises Refused (400, 404)."""
    entry = world.store.get(PODS, call.namespace, call.name)
    if entry is None:
        raise not_found(PODS, call.name)
    pod, query = entry.obj, call.query
    if not pod["spec"].get("nodeName"):
        return web.Response(status=204)
    container = query.get("container") or _only(pod)
    previous = query.get("previous", "").lower() == "true"
    found = log_of(pod["metadata"]["uid"], container, previous=previous)
    if found is None:
        raise _nothing(pod, container, previous=previous)
    path, more = found
    if query.get("follow", "").lower() == "true":
        return await _follow(request, path, more)
    text = path.read_bytes()
    if "tailLines" in query:
        text = b"".join(text.splitlines(keepends=True)[-int(query["tailLines"]) :] if int(query["tailLines"]) else [])
    if "limitBytes" in query:
        text = text[: int(query["limitBytes"])]
    return web.Response(body=text, content_type="text/plain")


def _only(pod: Json) -> str:
    names = [container["name"] for container in pod["spec"]["containers"]]
    if len(names) > 1:
        choose = " ".join(names)
        text = f"a container name must be specified for pod {pod['metadata']['name']}, choose one of: [{choose}]"
        raise bad_request(text)
    return str(names[0])


def _nothing(pod: Json, container: str, *, previous: bool) -> Exception:
    name = pod["metadata"]["name"]
    if previous:
        return bad_request(f'previous terminated container "{container}" in pod "{name}" not found')
    for status in pod["status"].get("containerStatuses") or []:
        if status["name"] == container:
            reason = (status["state"].get("waiting") or {}).get("reason", "ContainerCreating")
            return bad_request(f'container "{container}" in pod "{name}" is waiting to start: {reason}')
    return bad_request(f"container {container} is not valid for pod {name}")


async def _follow(request: web.Request, path: Path, more: Callable[[], bool]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    await response.prepare(request)
    with path.open("rb") as source:
        while True:
            last = not more()  # asked before reading, so that nothing written in between is missed
            if text := source.read():
                await response.write(text)
            elif last:
                break
            else:
                await asyncio.sleep(0.05)
    await response.write_eof()
    return response
