"""Settings of providers and variants, read into frozen models; what is wrong is said in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from labspawner.errors import BadConfig
from labspawner.model import Json
from labspawner.sentences import Sentence

Model = TypeVar("Model", bound=BaseModel)


def read_options(model: type[Model], options: Mapping[str, Json], *, where: str) -> Model:
    """`options` as a `model`. Raises BadConfig that names each wrong key; `where` begins the sentence."""
    try:
        return model.model_validate(dict(options))
    except ValidationError as exc:
        problems = "; ".join(_problem(error["loc"], error["type"], error["msg"], model) for error in exc.errors())
        raise BadConfig(Sentence("{where}: {problems}.", where=where, problems=problems)) from exc


def _problem(loc: tuple[int | str, ...], kind: str, message: str, model: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in loc) or "settings"
    if kind == "extra_forbidden":
        known = ", ".join(sorted(model.model_fields)) or "none"
        return f"there is no setting {key!r} (there are: {known})"
    return f"{key}: {message.removeprefix('Value error, ')}"
