"""The door to the API server: plain JSON in and out, one session, credentials that are read again when they expire.

kubernetes_asyncio reads kubeconfigs and service accounts, and gives the models that KubeSpawner builds; its generated
methods are not used, since they make an object of every field of every answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from logging import getLogger
from pathlib import Path
from typing import Any, cast

import aiohttp
from kubernetes_asyncio import client as models
from kubernetes_asyncio import config as configs
from kubernetes_asyncio.client import ApiClient, Configuration

from labspawner.errors import BadConfig
from labspawner.providers.kubernetes.answers import ApiRefused, ApiSilent, Obj
from labspawner.sentences import Sentence

log = getLogger(__name__)

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_IN_CLUSTER = "KUBERNETES_SERVICE_HOST"
_CONNECTIONS = 100
_PASSING = frozenset({429, 500, 502, 503, 504})  # the server's own trouble: the same call may work in a moment
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0


class Api:
    """One API server, as one account. Opened by its first call; all calls come from one event loop.

    kubeconfig, context: None for the service account of this pod, else for what KUBECONFIG names.
    """

    def __init__(self, *, kubeconfig: Path | None, context: str | None, timeout_s: float, patience_s: float) -> None:
        self._kubeconfig = kubeconfig
        self._context = context
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._client: ApiClient | None = None
        self._opening: asyncio.Lock | None = None
        self._namespace: str | None = None
        self.calls = 0

    async def namespace(self) -> str:
        """The namespace that this account works in by itself. Raises BadConfig where there are no credentials."""
        await self._opened()
        return self._namespace or "default"

    async def core(self) -> Any:
        """kubernetes_asyncio's `CoreV1Api`, for hooks that administrators wrote for KubeSpawner."""
        return models.CoreV1Api(await self._opened())

    async def plain(self, model: Any) -> dict[str, Any]:
        """A model object of kubernetes_asyncio as JSON has it."""
        return cast(dict[str, Any], (await self._opened()).sanitize_for_serialization(model))

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Obj | None = None,
        patience_s: float | None = None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> dict[str, Any]:
        """The object that the server answers. patience_s: how long trouble that passes is borne; None: as configured.
        wanted: whether it is worth trying again.

        Raises ApiRefused, and ApiSilent when there is no answer.
        """
        patience_s = self._patience_s if patience_s is None else patience_s
        text = await self._patiently(method, path, query, body, patience_s, wanted)
        try:
            found = json.loads(text)
        except ValueError as exc:
            raise ApiSilent(f"{method} {path}: the answer is no JSON") from exc
        return found if isinstance(found, dict) else {}

    async def text(self, path: str, *, query: Mapping[str, str]) -> str:
        """What a GET answers, as text. Raises ApiRefused and ApiSilent."""
        return (await self._patiently("GET", path, query, None, 0.0, lambda: True)).decode("utf-8", "replace")

    @asynccontextmanager
    async def lines(
        self, path: str, *, query: Mapping[str, str], silence_s: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of a watch, which is open inside the block. Raises ApiRefused, and ApiSilent when nothing, not even
        its end, came for `silence_s`."""
        what = f"watch {path}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout_s, sock_read=silence_s)
        client = await self._opened()
        try:
            async with self._session(client).get(
                _url(client, path), params=query, headers=await self._headers(client), timeout=timeout
            ) as response:
                if response.status >= 400:
                    await self._raise(response, what)
                yield aiter(response.content)
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as exc:
            raise ApiSilent(f"{what}: {type(exc).__name__}: {exc}") from exc

    async def close(self) -> None:
        """Give the connections back; a later call opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _patiently(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Obj | None,
        patience_s: float,
        wanted: Callable[[], bool],
    ) -> bytes:
        """One call, again where it failed for a passing reason; a second answer of 401 is final."""
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + patience_s, _FIRST_PAUSE_S
        renewed = False
        while True:
            headers = await self._headers(await self._opened())
            try:
                return await self._once(method, path, query, body, dict(headers))
            except ApiRefused as exc:
                if exc.status == 401 and not renewed:
                    renewed = True
                    await self._renew(headers)
                    continue
                if exc.status not in _PASSING or loop.time() + pause > until or not wanted():
                    raise
                log.debug("again: %s", exc)
            except ApiSilent as exc:
                if loop.time() + pause > until or not wanted():
                    raise
                log.debug("again: %s", exc)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - so that starts do not beat as one
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    async def _once(
        self, method: str, path: str, query: Mapping[str, str] | None, body: Obj | None, headers: dict[str, str]
    ) -> bytes:
        client = await self._opened()
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body), "application/json"
        self.calls += 1
        try:
            async with self._session(client).request(
                method,
                _url(client, path),
                params=query,
                data=data,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            ) as response:
                if response.status >= 400:
                    await self._raise(response, f"{method} {path}")
                return await response.read()
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as exc:
            raise ApiSilent(f"{method} {path}: {type(exc).__name__}: {exc}") from exc

    async def _raise(self, response: aiohttp.ClientResponse, what: str) -> None:
        text = await response.read()
        try:
            body = json.loads(text)
        except ValueError:
            body = {"message": text[:500].decode("utf-8", "replace")}
        raise ApiRefused(response.status, body if isinstance(body, dict) else {}, what)

    async def _opened(self) -> ApiClient:
        if self._client is not None:
            return self._client
        async with self._lock():
            if self._client is None:
                configuration = await self._load()
                self._client = ApiClient(configuration)
        return self._client

    async def _renew(self, refused: Mapping[str, str]) -> None:
        """Read the credentials again, unless somebody did since these were refused: their file may hold newer ones."""
        client = await self._opened()
        async with self._lock():
            if await self._headers(client) != refused:
                return
            configuration = await self._load()
            client.configuration.api_key = configuration.api_key
            client.configuration.refresh_api_key_hook = configuration.refresh_api_key_hook

    def _lock(self) -> asyncio.Lock:
        self._opening = self._opening or asyncio.Lock()
        return self._opening

    async def _load(self) -> Configuration:
        configuration = Configuration()
        configuration.connection_pool_maxsize = _CONNECTIONS
        untyped: Any = configs
        try:
            if self._kubeconfig is None and os.environ.get(_IN_CLUSTER):
                untyped.load_incluster_config(client_configuration=configuration)
                self._namespace = _own_namespace(SERVICE_ACCOUNT)
            else:
                path = str(self._kubeconfig) if self._kubeconfig else None
                loader = await untyped.load_kube_config(
                    config_file=path, context=self._context, client_configuration=configuration
                )
                self._namespace = _namespace_of(loader.current_context)
        except (configs.ConfigException, OSError, ValueError, KeyError, TypeError) as exc:
            raise BadConfig(
                Sentence(
                    "There are no credentials for the Kubernetes cluster. Administrator: run the hub in the cluster, or "
                    "set kubeconfig of the provider to a file that exists and can be read."
                ),
                detail=f"no credentials for the cluster: {type(exc).__name__}: {exc}",
            ) from exc
        return configuration

    def _session(self, client: ApiClient) -> aiohttp.ClientSession:
        session: aiohttp.ClientSession = client.rest_client.pool_manager
        return session

    async def _headers(self, client: ApiClient) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": "labspawner"}
        token = await client.configuration.get_api_key_with_prefix("BearerToken")
        if token:
            headers["Authorization"] = token
        elif client.configuration.username:
            headers["Authorization"] = client.configuration.get_basic_auth_token()
        return headers


def _url(client: ApiClient, path: str) -> str:
    return f"{client.configuration.host}{path}"


def _own_namespace(folder: Path) -> str | None:
    try:
        return (folder / "namespace").read_text().strip() or None
    except OSError:
        return None


def _namespace_of(context: Any) -> str | None:
    """The namespace of a kubeconfig's context."""
    try:
        namespace = context["context"]["namespace"]
    except (KeyError, TypeError):
        return None
    return str(namespace) if namespace else None
