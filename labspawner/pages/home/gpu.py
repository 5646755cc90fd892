"""What the pages say of a GPU slice: its badge, its meters, and what it could not give. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from labspawner.model import GpuUsage, HeldSlice, SliceTest
from labspawner.sentences import Sentence, plain
from labspawner.units import human_bytes, human_duration

NEWS_FOR = timedelta(minutes=30)
"""A refusal is old news after that: the program has ended, or found another way."""


@dataclass(frozen=True, slots=True)
class Badge:
    """A slice in a few words. mark: `good`, `bad` or `plain`, which only decides a colour. notes: what else to know."""

    text: Sentence
    mark: str
    notes: tuple[Sentence, ...] = ()


def badge_of(held: HeldSlice) -> Badge:
    """What its owner should know of a slice at a glance."""
    size = human_bytes(held.memory_bytes)
    slice_ = (
        Sentence("Pretended GPU slice {size}", size=size) if held.pretended else Sentence("GPU slice {size}", size=size)
    )
    why = held.why or plain("")
    notes = []
    if held.pretended:
        notes.append(Sentence("There is no such GPU: nothing is computed on it."))
    if held.courtesy:
        notes.append(
            Sentence("Servers here run without a sandbox, so the slice is a courtesy: a program can leave it.")
        )
    if held.tested is SliceTest.PASSED:
        return Badge(Sentence("{slice}, tested", slice=slice_), "plain" if held.courtesy else "good", tuple(notes))
    if held.tested is SliceTest.FAILED:
        return Badge(Sentence("{slice}, does not hold: {why}", slice=slice_, why=why), "bad", tuple(notes))
    if held.tested is SliceTest.UNTESTED:
        return Badge(Sentence("{slice}, not tested: {why}", slice=slice_, why=why), "bad", tuple(notes))
    return Badge(Sentence("{slice}", slice=slice_), "plain", tuple(notes))


def time_used(gpu: GpuUsage) -> Sentence:
    """How long the slice has worked on its card."""
    seconds = int(gpu.time_s)
    span = timedelta(seconds=seconds - seconds % 60 if seconds >= 3600 else seconds)
    return Sentence("{span} of GPU time", span=human_duration(span))


def news_of(gpu: GpuUsage, now: datetime) -> tuple[Sentence, ...]:
    """What the slice could not give lately, and what can be done; nothing where that is long ago."""
    refused = gpu.refused
    return (refused.words, *refused.hints) if refused is not None and now - refused.at <= NEWS_FOR else ()
