"""One act upon one student's server. Rights are looked at here, for the sentence, and again in the hub, which decides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labspawner.sentences import Sentence
from labspawner.service.console import words
from labspawner.service.console.doing.recording import entry
from labspawner.service.console.house import House
from labspawner.service.console.problems import Away, Problem
from labspawner.service.console.rights import Caller, Verb


async def act(
    house: House,
    caller: Caller,
    verb: Verb,
    *,
    user: str,
    server: str = "",
    lease: str = "",
    course: str = "",
    args: Mapping[str, Any] | None = None,
) -> Sentence:
    """Do it now, and say what came of it. course: whose staff the caller is; left out only by administrators. Raises Refused,
    and Problem with the hub's own sentence."""
    if course:
        house.require(caller, verb, course)
    else:
        house.require(caller, Verb.ADMIN)
    result = "unknown"
    try:
        said = await ask(
            house,
            {
                "actor": caller.name,
                "service": caller.service,
                "verb": verb.value.removeprefix("act:"),
                "user": user,
                "server": server,
                "lease": lease,
                "course": course,
                "args": dict(args or {}),
            },
        )
        result = "ok"
    except Problem as exc:
        result = exc.kind
        raise
    else:
        return said
    finally:
        told = {"server": server, **({"reason": args["reason"]} if args and args.get("reason") else {})}
        await house.store.audit.add(
            entry(
                house,
                caller,
                verb.value.replace(":", "."),
                course=course,
                subject=user,
                about=lease or server,
                detail=told,
                result=result,
            )
        )


async def ask(house: House, wish: Mapping[str, Any]) -> Sentence:
    """Have the hub do it; the sentence of its answer. Raises Problem."""
    answer = await house.hub.tell("act", wish)
    if not isinstance(answer, dict) or "sentence" not in answer:
        raise Away(words.HUB_AWAY)
    return Sentence.from_json(answer["sentence"])
