"""What was found, as a table for people and as JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from labspawner.providers.findings import Finding, Level

_STYLES = {Level.OK: "green", Level.NOTE: "dim", Level.WARNING: "yellow", Level.ERROR: "bold red"}


def counts(found: Mapping[str, Sequence[Finding]]) -> dict[Level, int]:
    """How many findings there are of each level."""
    levels = [finding.level for findings in found.values() for finding in findings]
    return {level: levels.count(level) for level in Level}


def as_json(found: Mapping[str, Sequence[Finding]]) -> str:
    """One object: whether all is well, and the findings in their order."""
    rows = [
        {"where": where, "level": each.level.value, "what": each.what, "detail": each.detail, "advice": each.advice}
        for where, findings in found.items()
        for each in findings
    ]
    return json.dumps({"ok": not counts(found)[Level.ERROR], "findings": rows}, indent=1, ensure_ascii=False)


def doctors_summary(counted: Mapping[Level, int]) -> str:
    """What doctor's findings come to, in a sentence."""
    errors, warnings = counted[Level.ERROR], counted[Level.WARNING]
    if errors:
        return f"{errors} error(s) and {warnings} warning(s): some servers will not start."
    return f"No error, {warnings} warning(s)." if warnings else "All is well."


def show(
    found: Mapping[str, Sequence[Finding]], *, summary: Callable[[Mapping[Level, int]], str] = doctors_summary
) -> None:
    """Print the table, and a sentence that says what it comes to."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "WHERE", "WHAT", "FOUND"):
        table.add_column(column, overflow="fold")
    for where, findings in found.items():
        for each in findings:
            style = _STYLES[each.level]
            said = each.detail + (f"\n→ {each.advice}" if each.advice else "")
            table.add_row(f"[{style}]{each.level.value}[/]", _plain(where), _plain(each.what), _plain(said))
    # A pipe has no width of its own; a table that is cut there would lose what a script looks for.
    # Nor has a fingerprint emoji: `:CD:` is two of its digits.
    console = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 200)
    console.print(table)
    console.print(summary(counts(found)))


def _plain(text: str) -> str:
    """Text that may hold square brackets, which mean styles to rich."""
    return text.replace("[", "\\[")
