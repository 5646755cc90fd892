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
    """Do it now, and say what came of it. course: whose staff the caller is; left out only by administrators. Raises
    Refused, and Problem with the hub's own sentence."""
    answer = await tell(house, caller, verb, user=user, server=server, lease=lease, course=course, args=args)
    return Sentence.from_json(answer["sentence"])


async def tell(
    house: House,
    caller: Caller,
    verb: Verb,
    *,
    user: str,
    server: str = "",
    lease: str = "",
    course: str = "",
    args: Mapping[str, Any] | None = None,
) -> Mapping[str, Any]:
    """The same, with all that the hub answers."""
    if course:
        house.require(caller, verb, course)
    else:
        house.require(caller, Verb.ADMIN)
    wish = {
        "actor": caller.name,
        "service": caller.service,
        "verb": verb.value.removeprefix("act:"),
        "user": user,
        "server": server,
        "lease": lease,
        "course": course,
        "args": dict(args or {}),
    }
    told = {"server": server, **({"reason": args["reason"]} if args and args.get("reason") else {})}
    kind, about, result = verb.value.replace(":", "."), lease or server, "unknown"
    try:
        answer = await _answer(house, wish)
        result = "ok"
    except Problem as exc:
        result = exc.kind
        raise
    finally:
        audit = entry(house, caller, kind, course=course, subject=user, about=about, detail=told, result=result)
        await house.store.audit.add(audit)
    return answer


async def ask(house: House, wish: Mapping[str, Any]) -> Sentence:
    """Have the hub do it; the sentence of its answer. Raises Problem."""
    return Sentence.from_json((await _answer(house, wish))["sentence"])


async def _answer(house: House, wish: Mapping[str, Any]) -> Mapping[str, Any]:
    answer = await house.hub.tell("act", wish)
    if not isinstance(answer, dict) or "sentence" not in answer:
        raise Away(words.HUB_AWAY)
    return answer
