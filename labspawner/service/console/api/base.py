"""What every address of the REST API has: JSON in, JSON out, and what is said where it does not fit."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from labspawner.sentences import Sentence, plain
from labspawner.service.console import words
from labspawner.service.console.base import ConsoleHandler
from labspawner.service.console.problems import Invalid, Missing, NeedsMatch, Problem, WrongType
from labspawner.service.console.rights import Verb

M = TypeVar("M", bound=BaseModel)


class ApiHandler(ConsoleHandler):
    """An address for programs. A browser's cookie is taken too, with JupyterHub's XSRF token in `X-XSRFToken`."""

    programs = True

    async def prepare(self) -> None:
        """Say nothing about a course, and take nothing for it, to somebody who may not know of it."""
        await super().prepare()
        if self.path_args and hasattr(self, "caller"):
            await self.house.require_course(self.caller, Verb.READ, self.path_args[0])

    def body(self, model: type[M]) -> M:
        """The body as `model`. Raises WrongType for what is not JSON, Problem where it cannot be read, Invalid with each
        field that is wrong; unknown fields are."""
        kind = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise WrongType(words.NEEDS_JSON)
        try:
            return model.model_validate_json(self.request.body)
        except ValidationError as exc:
            raise _invalid(exc) from exc

    def text_body(self, *kinds: str) -> str:
        """The body as text of one of these kinds. Raises WrongType and Problem."""
        kind = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind not in kinds:
            raise WrongType(Sentence("Send this with the header Content-Type: {kind}.", kind=kinds[0]))
        try:
            return self.request.body.decode("utf-8-sig")
        except UnicodeDecodeError as exc:
            raise Problem(words.UNREADABLE) from exc

    @property
    def if_match(self) -> str:
        """The ETag that a change is based on. Raises NeedsMatch without one."""
        given = self.request.headers.get("If-Match", "").strip()
        if not given or given == "*":
            raise NeedsMatch(words.NEEDS_MATCH)
        return given.removeprefix("W/").strip('"')

    def number(self, name: str, otherwise: int, *, least: int = 1, most: int) -> int:
        """A whole number of the query. Raises Problem."""
        given = self.get_query_argument(name, "")
        if not given:
            return otherwise
        if not (given.isascii() and given.isdigit() and len(given) < 10 and least <= int(given) <= most):
            raise Problem(
                Sentence("{name} is a whole number from {least} to {most}.", name=name, least=least, most=most)
            )
        return int(given)

    def give(self, model: BaseModel, *, status: int = 200, etag: str = "") -> None:
        """Answer with a model."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        if etag:
            self.set_header("ETag", f'"{etag}"')
        self.finish(model.model_dump_json(by_alias=True))

    def compute_etag(self) -> str | None:
        """None: an ETag here is a revision, and tornado's would be another thing."""
        return None


class UnknownHandler(ApiHandler):
    """Any other address below `api/`."""

    async def _nothing(self, *_args: str) -> None:
        raise Missing(words.NO_PAGE)

    get = head = post = put = patch = delete = _nothing


def _invalid(exc: ValidationError) -> Problem:
    told = []
    for error in exc.errors(include_url=False, include_input=False, include_context=False)[:20]:
        if error["type"] == "json_invalid":
            return Problem(words.UNREADABLE)
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]).lstrip(".")
        told.append({"path": path, "message": error["msg"]})
    problem = Invalid(plain("; ".join(f"{one['path']}: {one['message']}".lstrip(": ") for one in told[:3])))
    problem.members["problems"] = told
    return problem
