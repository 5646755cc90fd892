"""What programs send and get: the models that check it, and that the OpenAPI document is made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Sent(BaseModel):
    """What a program sends. An unknown field is refused: it is a misspelt one."""

    model_config = ConfigDict(extra="forbid", str_max_length=200_000, strict=True)


class Given(BaseModel):
    """What a program gets."""

    model_config = ConfigDict(extra="forbid")


class Me(Given):
    name: str
    service: bool
    admin: bool
    may_create: bool
    groups: list[str]
