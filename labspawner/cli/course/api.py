"""The console's REST API for a command: one token, one address, and errors as sentences for a terminal."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import click

F = TypeVar("F", bound=Callable[..., Any])

API = "services/labspawner/api/v1/"
_TIMEOUT_S = 60.0


class Refused(click.ClickException):
    """The console says no: its sentence, and each problem with its line. Exits with 1."""

    def __init__(self, status: int, told: Mapping[str, Any]) -> None:
        self.status = status
        self.told = told
        lines = [str(told.get("detail") or told.get("message") or f"The console answered {status}.")]
        for problem in told.get("problems") or ():
            where = f"{problem['line']}:{problem['column']}: " if problem.get("line") else ""
            lines.append(f"  {where}{problem.get('message', '')}")
        super().__init__("\n".join(printable(line) for line in lines))


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. etag: of what was read or written; empty without one."""

    status: int
    etag: str
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would take the token to whoever it names."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class Api:
    """One console. url: of the hub, with its base URL; token: goes nowhere else."""

    def __init__(self, url: str, token: str, *, language: str = "en") -> None:
        if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).netloc:
            raise click.UsageError(f"{url!r} is no address of a hub: write http://host:port/ or https://host/")
        self._root = url.rstrip("/") + "/" + API
        self._token = token
        self._language = language
        self._opener = urllib.request.build_opener(_NoRedirect)

    def get(self, *path: str, **query: str | int) -> Any:
        """What stands at an address, as JSON."""
        return self.ask("GET", path, query=query).json()

    def ask(
        self,
        method: str,
        path: tuple[str, ...],
        body: object = None,
        *,
        query: Mapping[str, str | int] | None = None,
        match: str = "",
    ) -> Answer:
        """One request. Raises Refused with the console's sentence, ClickException where nobody answers."""
        url = self._root + "/".join(quote(part, safe="") for part in path)
        asked = {key: value for key, value in (query or {}).items() if value != ""}
        headers = {"Authorization": f"token {self._token}", "Accept-Language": self._language}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if match:
            headers["If-Match"] = f'"{match}"'
        request = urllib.request.Request(  # noqa: S310 - the scheme is looked at above
            url + (f"?{urlencode(asked)}" if asked else ""),
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers=headers,
        )
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as response:
                return Answer(response.status, (response.headers.get("ETag") or "").strip('"'), response.read())
        except urllib.error.HTTPError as exc:
            with exc:
                raise Refused(exc.code, _told(exc)) from exc
        except OSError as exc:
            raise click.ClickException(f"Nobody answers at {self._root}: {exc}") from exc


def _told(exc: urllib.error.HTTPError) -> Mapping[str, Any]:
    try:
        found = json.loads(exc.read())
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    return {"detail": f"There is no labspawner console at this address (it answered {exc.code}). Check --url."}


def printable(text: object) -> str:
    """A text of somebody else, without what would move the cursor or recolour the terminal."""
    return "".join(letter if letter.isprintable() or letter == "\t" else "?" for letter in str(text))


def api_options(command: F) -> F:
    """Where the hub is, and whose token: options that every verb has."""
    for option in reversed(
        [
            click.option(
                "--url",
                envvar="LABSPAWNER_URL",
                default="http://127.0.0.1:8000/",
                show_default=True,
                help="The hub's address, with its base URL. Or set LABSPAWNER_URL.",
            ),
            click.option(
                "--token-file",
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                help="A file with a token of the hub. Or set LABSPAWNER_API_TOKEN; a command line is no place for it.",
            ),
            click.option("--lang", default="en", help="The language of sentences: en, zh-CN."),
        ]
    ):
        command = option(command)
    return command


def open_api(url: str, token_file: Path | None, lang: str, environment: Mapping[str, str]) -> Api:
    """The console, from the options and the environment. Raises UsageError without a token."""
    token = (
        token_file.read_text(encoding="utf-8").strip() if token_file else environment.get("LABSPAWNER_API_TOKEN", "")
    )
    if not token:
        raise click.UsageError(
            "No token: make one on the hub's token page, then set LABSPAWNER_API_TOKEN or use --token-file."
        )
    if any(letter.isspace() or not letter.isprintable() for letter in token):
        raise click.UsageError("The token holds white space: the file should have the token and nothing else.")
    return Api(url, token, language=lang)
