"""`hold`: keep this server although nothing seems to happen. Standard library only, so that it starts fast anywhere."""

from __future__ import annotations

import json
import os
import re
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

USAGE = "usage: hold 2h [reason] | hold --release"
_LENGTH = re.compile(r"(?:(\d{1,4})d)?(?:(\d{1,5})h)?(?:(\d{1,6})m(?:in)?)?(?:(\d{1,8})s)?", re.ASCII)
_TIMEOUT_S = 15
_LONGEST_REASON = 200
_OUTSIDE = {
    "en": "This command works in a terminal of your own server: it was not started by a labspawner hub.",
    "zh-CN": "此命令只能在您自己的服务器的终端中使用：当前环境不是由 labspawner 启动的。",
}
_UNREADABLE = {
    "en": "Say how long, with a unit: 2h, 90m or 1h30m.",
    "zh-CN": "请写明时长和单位，例如 2h、90m 或 1h30m。",
}
_AWAY = {
    "en": "The hub does not answer at the moment. Try again in a minute.",
    "zh-CN": "服务中心暂时没有响应，请稍后再试。",
}
_HELD = {
    "en": "Your server is kept until {until}, whatever runs in it. You can hold it for another {left}.",
    "zh-CN": "您的服务器将保留至 {until}，无论其中运行什么。之后还可保留 {left}。",
}
_RELEASED = {
    "en": "Your server is no longer held. You can hold it for another {left}.",
    "zh-CN": "您的服务器不再保留。之后还可保留 {left}。",
}
_UNITS = {"en": (" d", " h", " min"), "zh-CN": (" 天", " 小时", " 分钟")}


class Unreadable(ValueError):
    """What was given is no length of time."""


def seconds_in(text: str) -> int:
    """Seconds in `2h`, `90m`, `1h30m`, `1d`; at least 1. Raises Unreadable, also for a number without a unit."""
    match = _LENGTH.fullmatch(text.strip().lower())
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0, 0)
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if total < 1:
        raise Unreadable(text)
    return total


def hold(text: str | None, reason: str = "", environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Ask the hub to keep this server for `text`, or to let it go where that is None.

    Returns the exit status and a sentence in the reader's language: 0 done, 1 refused or not answered, 2 cannot ask.
    """
    environment = os.environ if environment is None else environment
    language = _language(environment)
    url, token = environment.get("JUPYTERHUB_API_URL", "").rstrip("/"), environment.get("JUPYTERHUB_API_TOKEN", "")
    if not (url and token and environment.get("LABSPAWNER_LEASE_ID")):
        return 2, _OUTSIDE[language]
    try:
        body: dict[str, Any] = {"seconds": 0 if text is None else seconds_in(text)}
    except Unreadable:
        return 2, _UNREADABLE[language]
    if reason:
        body["reason"] = reason[:_LONGEST_REASON]
    base = url[: -len("/api")] if url.endswith("/api") else url
    status, answer = _post(f"{base}/labspawner/hold", token, body, environment)
    if status != 200:
        said = answer.get("message")
        return 1, str(said.get(language) or said["en"]) if isinstance(said, dict) and "en" in said else _AWAY[language]
    return 0, _words(answer.get("hold"), language)


def main(arguments: Sequence[str]) -> int:
    """The command without click: `hold 2h [reason]` or `hold --release`. Prints a sentence, returns the status."""
    words = list(arguments)
    if words[:1] != ["hold"] or not words[1:] or words[1] in {"-h", "--help"}:
        print(USAGE, file=sys.stderr)  # noqa: T201 - this is a command
        return 2
    release = "--release" in words
    status, sentence = hold(None if release else words[1], " ".join(words[2:]) if not release else "")
    print(sentence, file=sys.stderr if status else sys.stdout)
    return status


def _post(url: str, token: str, body: object, environment: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(  # noqa: S310 - the hub's own address
        url,
        data=json.dumps(body).encode(),
        method="POST",
        headers={"Authorization": f"token {token}", "Content-Type": "application/json"},
    )
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]  # the hub is never behind a proxy
    try:
        if url.startswith("https:"):
            handlers.append(urllib.request.HTTPSHandler(context=_tls(environment)))
        with urllib.request.build_opener(*handlers).open(request, timeout=_TIMEOUT_S) as response:
            return int(response.status), _json(response.read(65536))
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, _json(exc.read(65536))
    except (OSError, ValueError):
        return 0, {}


def _tls(environment: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=environment.get("JUPYTERHUB_SSL_CLIENT_CA") or None)
    if certificate := environment.get("JUPYTERHUB_SSL_CERTFILE"):
        context.load_cert_chain(certificate, environment.get("JUPYTERHUB_SSL_KEYFILE") or None)
    return context


def _json(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _words(held: object, language: str) -> str:
    held = held if isinstance(held, dict) else {}
    left = _human(held.get("left_s"), language)
    try:  # Python before 3.11 reads no `Z`
        until = datetime.fromisoformat(str(held.get("until")).replace("Z", "+00:00")).astimezone()
    except ValueError:
        return _RELEASED[language].format(left=left)
    same_day = until.date() == datetime.now(timezone.utc).astimezone().date()
    return _HELD[language].format(until=until.strftime("%H:%M" if same_day else "%Y-%m-%d %H:%M"), left=left)


def _human(seconds: object, language: str) -> str:
    total = int(seconds) if isinstance(seconds, (int, float)) and seconds > 0 else 0
    minutes = total // 60
    amounts = (minutes // 1440, minutes // 60 % 24, minutes % 60)
    parts = [f"{amount}{unit}" for amount, unit in zip(amounts, _UNITS[language]) if amount]  # noqa: B905 - 3.8
    return " ".join(parts) or f"0{_UNITS[language][2]}"


def _language(environment: Mapping[str, str]) -> str:
    wished = next((environment[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if environment.get(name)), "")
    return "zh-CN" if wished.lower().startswith("zh") else "en"
