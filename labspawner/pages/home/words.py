"""What the home page says of one server: facts in, sentences out. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from labspawner.pages.home.facts import Inside, LastEnd, Outlook, ServerFacts, ServerStatus, Used
from labspawner.pages.home.gpu import Badge, badge_of, news_of, time_used
from labspawner.providers.departures import told
from labspawner.sentences import Sentence, plain
from labspawner.units import human_bytes, human_duration

URGENT = timedelta(minutes=2)
SOON = timedelta(minutes=15)
IN_USE = timedelta(minutes=1)
NEWS_EXPECTED = timedelta(minutes=5)

_UNITS = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20))


class Tone(str, Enum):
    """Decides a colour; the words beside it say the same."""

    CALM = "calm"
    SOON = "soon"
    URGENT = "urgent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """A bar with its numbers. percent: None where there is no limit, or nothing to show yet.
    measuring: the next look will know more."""

    key: str
    label: Sentence
    text: Sentence
    percent: int | None = None
    tone: Tone = Tone.CALM
    measuring: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Button:
    """Something to click. disabled: why it cannot be. confirm: what to know before; empty: nothing is asked."""

    label: Sentence
    hint: Sentence | None = None
    disabled: Sentence | None = None
    confirm: tuple[Sentence, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCard:
    """One server on the page, in words. spoken: what a screen reader hears when it changes. badge: of its GPU slice;
    news: memory that this had not, and what to do."""

    facts: ServerFacts
    state: Sentence
    since: Sentence | None
    spoken: Sentence
    end: tuple[Sentence, ...] = ()
    tone: Tone = Tone.CALM
    meters: tuple[Meter, ...] = ()
    evidence: tuple[Sentence, ...] = ()
    extend: Button | None = None
    stop: Button | None = None
    ended: tuple[Sentence, ...] = ()
    badge: Badge | None = None
    news: tuple[Sentence, ...] = ()


def card(facts: ServerFacts, now: datetime) -> ServerCard:
    """Say all there is to say of a server at `now`."""
    running = facts.status is ServerStatus.RUNNING
    outlook = facts.outlook if running and facts.outlook else Outlook()
    state = _STATES[facts.status]
    tone = _tone(outlook, facts.leaves_at if running else None, now)
    return ServerCard(
        facts=facts,
        state=state,
        since=_since(facts, now),
        spoken=_spoken(facts, state, tone),
        end=_end(facts, outlook, now),
        tone=tone,
        meters=meters_of(facts.used) if running and facts.used else (),
        evidence=_evidence(facts.inside, now) if running and facts.inside else (),
        extend=_extend_button(outlook) if running else None,
        stop=_stop_button(facts, now),
        ended=_ended(facts.last_end, now) if facts.last_end and facts.status in _OVER else (),
        badge=badge_of(facts.held) if facts.held and facts.status not in _OVER else None,
        news=news_of(facts.used.gpu, now) if running and facts.used and facts.used.gpu else (),
    )


_OVER = frozenset({ServerStatus.OFF, ServerStatus.PARKED})
_STATES: Mapping[ServerStatus, Sentence] = {
    ServerStatus.RUNNING: Sentence("Running"),
    ServerStatus.STARTING: Sentence("Starting"),
    ServerStatus.STOPPING: Sentence("Stopping"),
    ServerStatus.PARKED: Sentence("Parked"),
    ServerStatus.OFF: Sentence("Not running"),
}


def ends_at(outlook: Outlook) -> datetime | None:
    """The nearest end that the rules foresee; None where they foresee none."""
    ends = [end for end in (outlook.idle_ends_at, outlook.age_ends_at) if end is not None]
    return min(ends) if ends else None


def _tone(outlook: Outlook, leaves_at: datetime | None, now: datetime) -> Tone:
    if leaves_at is not None and leaves_at - now <= SOON:
        return Tone.URGENT if leaves_at - now <= URGENT else Tone.SOON
    end = ends_at(outlook)
    if end is None or end - now > _soon(outlook):
        return Tone.CALM
    return Tone.URGENT if end - now <= URGENT else Tone.SOON


def _soon(outlook: Outlook) -> timedelta:
    """How near an end must be to be a warning: at most half the idle limit, or a short one would always warn."""
    if outlook.idle_limit_s is None or (outlook.age_ends_at and outlook.age_ends_at == ends_at(outlook)):
        return SOON
    return min(SOON, timedelta(seconds=outlook.idle_limit_s / 2))


def _since(facts: ServerFacts, now: datetime) -> Sentence | None:
    if facts.since is None or facts.status is ServerStatus.OFF:
        return None
    return Sentence("for {span}, since {at}", span=_span(now - facts.since), at=facts.since)


def _spoken(facts: ServerFacts, state: Sentence, tone: Tone) -> Sentence:
    server = plain(facts.label) if facts.label else Sentence("Your server")
    if tone is Tone.CALM:
        return Sentence("{server}: {state}", server=server, state=state)
    warning = Sentence("it ends very soon") if tone is Tone.URGENT else Sentence("it ends soon")
    return Sentence("{server}: {state}, {warning}", server=server, state=state, warning=warning)


# -- when it ends -------------------------------------------------------------------------------------------------------


def _end(facts: ServerFacts, outlook: Outlook, now: datetime) -> tuple[Sentence, ...]:
    if facts.status is ServerStatus.PARKED:
        if facts.kept_until is None:
            return (Sentence("It is kept until you resume or delete it."),)
        return (Sentence("It is kept until {at}.", at=facts.kept_until),)
    if facts.status is not ServerStatus.RUNNING or facts.outlook is None:
        return ()
    leaves = (told(facts.leaves_at),) if facts.leaves_at is not None else ()
    lines = [line for line in (_age_line(outlook, now), _idle_line(outlook, now)) if line is not None]
    if outlook.idle_ends_at and (outlook.age_ends_at is None or outlook.idle_ends_at <= outlook.age_ends_at):
        lines.reverse()  # the nearer end first
    return (*leaves, *lines) or (Sentence("It has no time limit."),)


def _idle_line(outlook: Outlook, now: datetime) -> Sentence | None:
    sleeps = outlook.hibernates
    if outlook.kept is not None:
        said = Sentence("Not hibernated as idle now: {why}.", why=outlook.kept)
        return said if sleeps else Sentence("Not stopped as idle now: {why}.", why=outlook.kept)
    if outlook.held_until is not None and outlook.held_until > now:
        said = Sentence("Not hibernated as idle before {at}: you asked to keep it.", at=outlook.held_until)
        return (
            said
            if sleeps
            else Sentence("Not stopped as idle before {at}: you asked to keep it.", at=outlook.held_until)
        )
    if outlook.idle_limit_s is None:
        return None
    return (_idle_sleep if sleeps else _idle_stop)(outlook, outlook.idle_limit_s, now)


def _idle_stop(outlook: Outlook, limit_s: float, now: datetime) -> Sentence:
    limit = _span(timedelta(seconds=limit_s))
    if outlook.idle_ends_at is None or outlook.idle_since is None:
        return Sentence("Stops after {limit} without use.", limit=limit)
    idle = now - outlook.idle_since
    left = outlook.idle_ends_at - now
    if outlook.idle_cause == "gpu":
        return Sentence(
            "Stops in {left} unless its GPU works: that did nothing for {idle}.",
            left=_span_left(left),
            idle=_span(idle),
        )
    if left <= timedelta(0):
        return Sentence("Stops any moment unless used: idle for {idle}.", idle=_span(idle))
    if idle < IN_USE:
        return Sentence("In use. Stops after {limit} without use.", limit=limit)
    return Sentence("Stops in {left} unless used: idle for {idle}.", left=_span_left(left), idle=_span(idle))


def _idle_sleep(outlook: Outlook, limit_s: float, now: datetime) -> Sentence:
    """The same of a server that goes on where it was. Machines that hibernate have no slice of a GPU."""
    limit = _span(timedelta(seconds=limit_s))
    if outlook.idle_ends_at is None or outlook.idle_since is None:
        return Sentence("Hibernates after {limit} without use.", limit=limit)
    idle = now - outlook.idle_since
    left = outlook.idle_ends_at - now
    if left <= timedelta(0):
        return Sentence("Hibernates any moment unless used: idle for {idle}.", idle=_span(idle))
    if idle < IN_USE:
        return Sentence("In use. Hibernates after {limit} without use.", limit=limit)
    return Sentence("Hibernates in {left} unless used: idle for {idle}.", left=_span_left(left), idle=_span(idle))


def _age_line(outlook: Outlook, now: datetime) -> Sentence | None:
    if outlook.age_ends_at is None or outlook.age_limit_s is None:
        return None
    limit = _span(timedelta(seconds=outlook.age_limit_s))
    left = outlook.age_ends_at - now
    if left <= timedelta(0):
        return Sentence("Ends any moment, used or not: its limit is {limit}.", limit=limit)
    return Sentence(
        "Ends at {at}, used or not: its limit is {limit}, {left} are left.",
        at=outlook.age_ends_at,
        limit=limit,
        left=_span_left(left),
    )


# -- what it uses and does ----------------------------------------------------------------------------------------------


def meters_of(used: Used) -> tuple[Meter, ...]:
    """What is used of what may be, as far as it is known."""
    meters = []
    if used.memory_bytes is not None:
        percent = _percent(used.memory_bytes, used.memory_limit_bytes)
        text = _of_bytes(used.memory_bytes, used.memory_limit_bytes)
        meters.append(Meter(key="memory", label=Sentence("Memory"), text=text, percent=percent, tone=_full(percent)))
    if used.cores is not None:
        percent = _percent(used.cores, used.cores_limit)
        meters.append(Meter(key="cpu", label=Sentence("CPU"), text=_of_cores(used), percent=percent))
    elif used.measuring:
        limit = f"{used.cores_limit:g}" if used.cores_limit else None
        text = Sentence("being measured; its limit is {count}", count=limit) if limit else Sentence("being measured")
        meters.append(Meter(key="cpu", label=Sentence("CPU"), text=text, measuring=True))
    if used.disk_bytes is not None and used.disk_limit_bytes:
        percent = _percent(used.disk_bytes, used.disk_limit_bytes)
        text = _of_bytes(used.disk_bytes, used.disk_limit_bytes)
        meters.append(Meter(key="disk", label=Sentence("Files"), text=text, percent=percent, tone=_full(percent)))
    if used.gpu is not None:
        percent = _percent(used.gpu.memory_bytes, used.gpu.memory_limit_bytes)
        text = _of_bytes(used.gpu.memory_bytes, used.gpu.memory_limit_bytes)
        meters.append(Meter(key="gpu", label=Sentence("GPU memory"), text=text, percent=percent, tone=_full(percent)))
        meters.append(Meter(key="gpu-time", label=Sentence("GPU"), text=time_used(used.gpu)))
    return tuple(meters)


def _full(percent: int | None) -> Tone:
    """A server that reaches its limit of memory or disk loses work; one that uses all its cores only works."""
    if percent is None or percent < 80:
        return Tone.CALM
    return Tone.URGENT if percent >= 95 else Tone.SOON


def _percent(used: float, limit: float | None) -> int | None:
    return min(100, round(100 * used / limit)) if limit else None


def _of_bytes(used: int, limit: int | None) -> Sentence:
    if not limit:
        return Sentence("{used}, no limit", used=human_bytes(used))
    unit, factor = next((entry for entry in _UNITS if limit >= entry[1]), ("KiB", 2**10))
    digits = 0 if unit in {"MiB", "KiB"} else 1
    little = 0 < used < factor / 10 and unit != "KiB"  # "46 MiB of 1 GiB", for it is not "0.0"
    return Sentence(
        "{used} of {limit}",
        used=human_bytes(round(used / 2**20) * 2**20) if little else f"{used / factor:.{digits}f}",
        limit=f"{limit / factor:.{digits}f}".removesuffix(".0") + f" {unit}",
    )


def _of_cores(used: Used) -> Sentence:
    busy = f"{used.cores or 0:.1f}"
    if not used.cores_limit:
        return Sentence("{count} cores, no limit", count=busy)
    if used.cores_limit == 1:
        return Sentence("{used} of 1 core", used=busy)
    return Sentence("{used} of {count} cores", used=busy, count=f"{used.cores_limit:g}")


def _evidence(inside: Inside, now: datetime) -> tuple[Sentence, ...]:
    if inside.reported_at is None:
        return (Sentence("Nothing was heard from inside the server yet."),)
    if now - inside.reported_at > NEWS_EXPECTED:
        silent = Sentence(
            "Nothing was heard from inside the server for {span}; it is not stopped as idle on that alone.",
            span=_span(now - inside.reported_at),
        )
        return (silent,)
    said = [*_kernel_lines(inside, now), *_terminal_lines(inside.terminals), *_unsaved(inside.unsaved)]
    if not said:
        said.append(Sentence("Open in a browser") if inside.watching else Sentence("Nothing runs in it"))
    return tuple(said)


def _kernel_lines(inside: Inside, now: datetime) -> list[Sentence]:
    lines = []
    if inside.busy_kernels == 1 and inside.busy_since:
        lines.append(Sentence("1 busy kernel since {at}", at=inside.busy_since))
    elif inside.busy_kernels > 1 and inside.busy_since:
        lines.append(
            Sentence("{count} busy kernels, the first since {at}", count=inside.busy_kernels, at=inside.busy_since)
        )
    elif inside.busy_kernels:
        lines.append(Sentence("Busy kernels: {count}", count=inside.busy_kernels))
    if inside.waiting_kernels:
        lines.append(Sentence("A kernel waits for your input"))
    return lines


def _terminal_lines(commands: Sequence[str]) -> list[Sentence]:
    if not commands:
        return []
    if len(commands) == 1:
        return [Sentence("A terminal runs {command}", command=_short(commands[0]))]
    return [Sentence("{count} terminals run something", count=len(commands))]


def _unsaved(count: int) -> list[Sentence]:
    if not count:
        return []
    return [Sentence("1 unsaved document") if count == 1 else Sentence("{count} unsaved documents", count=count)]


def _short(command: str, most: int = 60) -> str:
    text = " ".join(command.split())
    return text if len(text) <= most else text[: most - 1] + "…"


# -- what can be clicked ------------------------------------------------------------------------------------------------


def _extend_button(outlook: Outlook) -> Button | None:
    extension = outlook.extension
    if extension is None:
        return None
    refused = extension.refused
    if refused is None and extension.left_today <= 0:
        refused = Sentence("You have used all extensions for today.")
    left = Sentence("{count} left today", count=max(0, extension.left_today))
    span = _span(timedelta(seconds=extension.step_s))
    return Button(label=Sentence("Extend by {span}", span=span), hint=left, disabled=refused)


def _stop_button(facts: ServerFacts, now: datetime) -> Button | None:
    if facts.status is ServerStatus.STARTING:
        return Button(label=Sentence("Cancel"))
    if facts.status is not ServerStatus.RUNNING:
        return None
    return Button(label=Sentence("Stop"), confirm=tuple(_at_stake(facts.inside, now)) if facts.inside else ())


def _at_stake(inside: Inside, now: datetime) -> list[Sentence]:
    """What a stop would end."""
    lines = []
    if inside.busy_kernels and inside.busy_since:
        span = _span(now - inside.busy_since)
        lines.append(
            Sentence("A kernel has been busy for {span}; its work ends.", span=span)
            if inside.busy_kernels == 1
            else Sentence("Kernels have been busy for up to {span}; their work ends.", span=span)
        )
    elif inside.busy_kernels:
        lines.append(Sentence("A kernel is busy; its work ends."))
    lines += [
        Sentence("{command} runs in a terminal; it ends.", command=_short(command)) for command in inside.terminals[:2]
    ]
    if inside.unsaved:
        lines.append(
            Sentence("1 document is not saved.")
            if inside.unsaved == 1
            else Sentence("{count} documents are not saved.", count=inside.unsaved)
        )
    return lines


# -- why the last one ended ---------------------------------------------------------------------------------------------


def _ended(last: LastEnd, now: datetime) -> tuple[Sentence, ...]:
    """What happened and why; who did it and when; what is kept."""
    when = Sentence("{by}, {span} ago, at {at}.", by=who(last.ending.by), span=_span(now - last.at), at=last.at)
    return (last.ending.reason, when, Sentence("Your files are kept."))


def who(by: str) -> Sentence:
    """Who ended a server, for its owner."""
    known = {
        "user": Sentence("Stopped by you"),
        "culler": Sentence("Stopped by the rules of its profile"),
        "hub": Sentence("Stopped by the lab"),
        "reconciler": Sentence("Stopped by the lab"),
        "failure": Sentence("Stopped by itself"),
    }
    return known.get(by) or Sentence("Stopped by {name}", name=plain(by))


def _span(span: timedelta) -> str:
    """Whole minutes from one minute on, rounded down."""
    seconds = max(0, int(span.total_seconds()))
    return human_duration(timedelta(seconds=seconds - seconds % 60 if seconds >= 60 else seconds))


def _span_left(span: timedelta) -> str:
    """Whole minutes, rounded up: nobody should be stopped while the page still shows a time."""
    seconds = max(0, int(span.total_seconds()))
    return human_duration(timedelta(seconds=-(-seconds // 60) * 60 if seconds > 60 else seconds))
