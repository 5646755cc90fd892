"""What the console asks of JupyterHub: who somebody is, groups and users, and what only the hub knows (its inner API)."""

from __future__ import annotations

import json
import logging
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from jupyterhub.services.auth import HubOAuth
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest, HTTPResponse
from tornado.web import HTTPError

from labspawner.courses import Loaded, parse_course
from labspawner.sentences import Sentence, plain
from labspawner.service.console import words
from labspawner.service.console.problems import Away, Problem, Refused
from labspawner.service.console.rights import Caller
from labspawner.service.console.stream import lines

log = logging.getLogger(__name__)

KNOWN_FOR_S = 5
"""For so long who somebody is, and in which groups, is not asked again: a removed instructor is one for 5 s at most."""
INNER = "/labspawner/v1"
_REQUEST_S = 30.0
_CONNECTIONS = 20
_PAGE = 200
_BATCH = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What the hub says of itself. manages_groups: its authenticator sets the groups of whoever logs in. demo, bare,
    pretended: what each of its pages says at the top."""

    jupyterhub: str = ""
    manages_groups: bool = False
    providers: tuple[str, ...] = ()
    shares: bool = False
    demo: bool = False
    bare: bool = False
    pretended: bool = False


class Hub:
    """One hub, by this service's own token. Raises Away where it does not answer, Problem where it says no.

    regrouped, done: they grow whenever groups were changed from here, and whenever the hub did something for us: what was
    read of it before may be wrong since.
    """

    def __init__(self, auth: HubOAuth, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self.auth = auth
        self._ssl = ssl_context
        self._client = AsyncHTTPClient(force_instance=True, max_clients=_CONNECTIONS)
        self.regrouped = 0
        self.done = 0

    # -- who asks --------------------------------------------------------------------------------------------------

    async def who(self, handler: Any) -> Caller | None:
        """Who sent this request, as the hub had them at most `KNOWN_FOR_S` ago; None where nobody is logged in. Raises Away,
        and Refused for somebody whom the hub does not let use this service."""
        try:
            model = await self.auth.get_user(handler, sync=False)
        except HTTPError as exc:
            if exc.status_code < 500:
                raise
            raise Away(words.HUB_AWAY) from exc
        return self.caller(model)

    async def still(self, token: str, session_id: str = "") -> Caller | None:
        """Who a token of a moment ago is now; None where it is nobody's. Raises Away and Refused."""
        try:
            model = await self.auth.user_for_token(token, use_cache=False, session_id=session_id, sync=False)
        except HTTPError as exc:
            raise Away(words.HUB_AWAY) from exc
        return self.caller(model)

    def caller(self, model: Any) -> Caller | None:
        """JupyterHub's model of a token's owner as ours."""
        if not isinstance(model, dict) or not model.get("name"):
            return None
        if not self.auth.check_scopes(self.auth.access_scopes, model):
            raise Refused(words.NOT_LET_IN)
        return Caller(
            name=str(model["name"]),
            groups=frozenset(str(group) for group in model.get("groups") or ()),
            scopes=frozenset(str(scope) for scope in model.get("scopes") or ()),
            service=model.get("kind", "user") != "user",
        )

    # -- groups and users ------------------------------------------------------------------------------------------

    async def users(self) -> set[str]:
        """The names of all users of the hub."""
        names: set[str] = set()
        offset: int | None = 0
        while offset is not None:
            query = urlencode({"offset": offset, "limit": _PAGE})
            page = await self._json("GET", f"/users?{query}", Accept="application/jupyterhub-pagination+json")
            offset = _next_offset(page, offset)
            names.update(str(user["name"]) for user in page["items"])
        return names

    async def newest_users(self) -> set[str]:
        """The names of those who became users last."""
        found = await self._json("GET", f"/users?{urlencode({'sort': '-id', 'limit': _PAGE})}")
        return {str(user.get("name")) for user in found} if isinstance(found, list) else set()

    async def groups(self) -> set[str]:
        """The names of all groups of the hub."""
        names: set[str] = set()
        offset: int | None = 0
        while offset is not None:
            query = urlencode({"offset": offset, "limit": _PAGE})
            page = await self._json("GET", f"/groups?{query}", Accept="application/jupyterhub-pagination+json")
            offset = _next_offset(page, offset)
            names.update(str(group["name"]) for group in page["items"])
        return names

    async def group(self, name: str) -> list[str] | None:
        """The members of a group; None where there is no such group."""
        model = await self._json("GET", f"/groups/{_q(name)}", missing=True)
        return None if model is None else [str(user) for user in model.get("users", [])]

    async def make_group(self, name: str) -> None:
        """Make a group, if there is none of this name."""
        try:
            await self._json("POST", f"/groups/{_q(name)}", {})
        except Problem as exc:
            if exc.members.get("hub_status") != 409:
                raise

    async def add_to_group(self, name: str, users: Sequence[str]) -> None:
        """Put users, who must exist, into a group, in batches."""
        for batch in _batches(users):
            await self._json("POST", f"/groups/{_q(name)}/users", {"users": batch})
        self._changed()

    async def remove_from_group(self, name: str, users: Sequence[str]) -> None:
        """Take users out of a group, in batches."""
        for batch in _batches(users):
            await self._json("DELETE", f"/groups/{_q(name)}/users", {"users": batch})
        self._changed()

    def _changed(self) -> None:
        """A change of ours counts from now on, for whoever is at work here too."""
        self.auth.cache.clear()
        self.regrouped += 1

    async def make_users(self, names: Sequence[str]) -> None:
        """Make users; names that are taken are left as they are. Needs the scope `admin:users`."""
        for batch in _batches(names):
            try:
                await self._json("POST", "/users", {"usernames": batch, "admin": False})
            except Problem as exc:
                if exc.members.get("hub_status") != 409:
                    raise

    # -- what only the hub knows -----------------------------------------------------------------------------------

    async def ask(self, path: str, **query: str) -> Any:
        """What the hub's inner API answers: `availability`, `state`, `capacity`, `decisions`, `about`, `courses/given`."""
        asked = f"?{urlencode(query)}" if query else ""
        return await self._json("GET", f"{INNER}/{path}{asked}")

    async def tell(self, path: str, body: Mapping[str, Any]) -> Any:
        """Have the hub do something: `act`, `courses/refresh`. Raises Problem with the sentence of its refusal."""
        try:
            return await self._json("POST", f"{INNER}/{path}", body)
        finally:
            self.done += 1  # also where no answer came: it may have been done

    async def about(self) -> About:
        """What the hub is."""
        found = await self.ask("about")
        notes = found.get("notes") or {}
        return About(
            jupyterhub=str(found.get("jupyterhub", "")),
            manages_groups=bool(found.get("manages_groups")),
            providers=tuple(str(name) for name in found.get("providers", ())),
            shares=bool(found.get("shares")),
            **{name: bool(notes.get(name)) for name in ("demo", "bare", "pretended")},
        )

    async def given_courses(self) -> list[Loaded]:
        """The courses that stand in its configuration; one that cannot be read here is left out."""
        found = [
            parse_course(str(one["text"]), str(one["file"])) for one in (await self.ask("courses/given"))["courses"]
        ]
        return [one for one in found if isinstance(one, Loaded)]

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """What changes in the hub, one JSON object per event, until the connection ends. Raises Away."""
        url = f"{self.auth.api_url.rstrip('/')}{INNER}/events"
        try:
            async for line in lines(url, headers=self._headers(), tls=self._ssl):
                if line.startswith("data:"):
                    found = json.loads(line[5:])
                    if isinstance(found, dict):
                        yield found
        except (OSError, ValueError) as exc:
            raise Away(words.HUB_AWAY) from exc

    # -- below it --------------------------------------------------------------------------------------------------

    def _headers(self, **more: str) -> dict[str, str]:
        return {"Authorization": f"token {self.auth.api_token}", "Content-Type": "application/json", **more}

    async def _json(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, missing: bool = False, **headers: str
    ) -> Any:
        request = HTTPRequest(
            f"{self.auth.api_url.rstrip('/')}{path}",
            method=method,
            headers=self._headers(**headers),
            body=None if body is None else json.dumps(body),
            allow_nonstandard_methods=True,  # a DELETE with a body is how JupyterHub takes users out of groups
            request_timeout=_REQUEST_S,
            connect_timeout=_REQUEST_S,
            follow_redirects=False,
            ssl_options=self._ssl,
        )
        try:
            response = await self._client.fetch(request, raise_error=False)
        except (HTTPClientError, OSError) as exc:
            log.warning("the hub does not answer %s %s: %s", method, path.partition("?")[0], exc)
            raise Away(words.HUB_AWAY) from exc
        if response.code == 404 and missing:
            return None
        if response.code >= 300:
            raise _refusal(response, f"{method} {path.partition('?')[0]}")
        try:
            return json.loads(response.body) if response.body else {}
        except ValueError as exc:
            raise Away(words.HUB_AWAY) from exc

    async def close(self) -> None:
        """Give back the connections."""
        self._client.close()


def _next_offset(page: Any, offset: int) -> int | None:
    """Where a listing goes on. Raises Away for what is no listing, or does not go on."""
    try:
        follow = page["_pagination"]["next"]
        found = None if follow is None else int(follow["offset"])
        if not isinstance(page["items"], list) or (found is not None and found <= offset):
            raise ValueError("not a page")
    except (KeyError, TypeError, ValueError) as exc:
        raise Away(words.HUB_AWAY) from exc
    return found


def _refusal(response: HTTPResponse, what: str) -> Problem:
    """The hub's no, in its own sentence where it gave one."""
    try:
        found = json.loads(response.body or b"{}")
    except ValueError:
        found = {}
    said = found.get("message") if isinstance(found, dict) else None
    if response.code == 429:
        problem = Problem(plain(str(said or "")), status=429, kind="too-many")
        problem.members["retry_after_s"] = _seconds(response.headers.get("Retry-After", ""))
    elif response.code in {401, 403} and "sentence" not in found:
        log.error("the hub refuses %s to the console itself: has its token the role of wiring.run_console?", what)
        problem = Away(words.HUB_AWAY)
    elif response.code >= 500 or said is None:
        log.warning("the hub answered %s to %s", response.code, what)
        problem = Away(words.HUB_AWAY)
    else:
        message = Sentence.from_json(found.get("sentence", said))
        problem = Problem(message, status=response.code, kind="hub")
    problem.members["hub_status"] = response.code
    return problem


def _seconds(text: str) -> float:
    try:
        return min(max(float(text), 1.0), 60.0)
    except ValueError:
        return 5.0


def _batches(names: Iterable[str]) -> list[list[str]]:
    found = list(names)
    return [found[start : start + _BATCH] for start in range(0, len(found), _BATCH)]


def _q(text: str) -> str:
    return quote(text, safe="")
