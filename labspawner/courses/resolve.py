"""A choice as what a provider is asked for, and as what a lease remembers. Every answer is a copy of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import timedelta
from typing import cast

from labspawner.courses.choice import UNLISTED_SUFFIX, Choice
from labspawner.courses.models import Course, Gpu, Profile, Variant, VariantKeys
from labspawner.model import Json, Resources, Slice


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedVariant:
    """One way to run a profile, with the user's options applied.

    settings: keys that only the provider reads; `image`, `template` and `gpu` (all but its size) stand there too.
    start_timeout_s: None leaves it to the administrator.
    index: which of the profile's variants it is, from 0.
    """

    provider: str
    resources: Resources
    settings: dict[str, Json] = field(default_factory=dict)
    start_timeout_s: float | None = None
    index: int = 0
    title: dict[str, str] | None = None

    def to_json(self) -> dict[str, Json]:
        """A JSON object that `from_json` turns back into the same variant."""
        return {
            "provider": self.provider,
            "resources": self.resources.to_json(),
            "settings": deepcopy(self.settings),
            "start_timeout_s": self.start_timeout_s,
            "index": self.index,
            "title": cast(Json, self.title and dict(self.title)),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> ResolvedVariant:
        """Rebuild from `to_json`, for a lease that was pinned before the course file changed."""
        values = deepcopy(dict(data))
        resources = Resources.from_json(cast(Mapping[str, Json], values.pop("resources")))
        return cls(resources=resources, **values)  # type: ignore[arg-type]


def resolve(choice: Choice, variant_index: int = 0) -> ResolvedVariant:
    """The profile's variant number `variant_index` as a provider is asked for it. Raises IndexError beyond the last."""
    return resolve_profile(choice.profile, choice.options, variant_index)


def resolve_profile(profile: Profile, options: Mapping[str, str], variant_index: int) -> ResolvedVariant:
    """As `resolve`; options: as `Choice.options` has them. One that the profile no longer has is left out."""
    if variant_index < 0:
        raise IndexError(f"no variant {variant_index}")
    variant = profile.variants[variant_index]
    values = {name: getattr(variant, name) for name in VariantKeys.model_fields}
    values["settings"] = deepcopy(variant.settings)
    for name, option in profile.options.items():
        typed = options.get(name + UNLISTED_SUFFIX)
        if typed is not None:
            _replace(values, option.unlisted_choice.set, typed)
        elif (picked := option.choices.get(options.get(name, ""))) is not None:
            _replace(values, picked.set, None)
    return _resolved(variant, values, variant_index, hibernates=profile.idle.action == "hibernate")


def _replace(values: dict[str, object], changes: VariantKeys, typed: str | None) -> None:
    """Put `changes` over `values`, our own copy: settings are merged, anything else is replaced."""
    for name in changes.model_fields_set:
        new = _filled(deepcopy(getattr(changes, name)), typed)
        old = values[name]
        values[name] = _merged(old, new) if isinstance(old, dict) and isinstance(new, dict) else new


def _filled(value: object, typed: str | None) -> object:
    """`{value}` in texts stands for what was typed; anything else in braces is left alone."""
    if typed is None:
        return value
    if isinstance(value, str):
        return value.replace("{value}", typed)
    if isinstance(value, list):
        return [_filled(item, typed) for item in value]
    if isinstance(value, dict):
        return {key: _filled(item, typed) for key, item in value.items()}
    return value


def _merged(old: dict[str, object], new: dict[str, object]) -> dict[str, object]:
    result = dict(old)
    for key, value in new.items():
        below = result.get(key)
        result[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def _resolved(variant: Variant, values: dict[str, object], index: int, *, hibernates: bool) -> ResolvedVariant:
    settings = cast(dict[str, Json], values["settings"])
    if hibernates and values["template"] is not None:
        settings.setdefault("hibernate", True)  # its host keeps room for its memory
    for name in ("image", "template"):
        if values[name] is not None:
            settings[name] = cast(str, values[name])
    gpu = cast("Gpu | None", values["gpu"])
    if gpu is not None:
        how = gpu.model_dump(mode="json", exclude={"memory", "cores"}, exclude_none=True)
        settings["gpu"] = cast(Json, how)
    timeout = cast("timedelta | None", values["start_timeout"])
    return ResolvedVariant(
        provider=variant.provider,
        resources=Resources(
            cpu=cast("float | None", values["cpu"]),
            memory_bytes=cast("int | None", values["memory"]),
            disk_bytes=cast("int | None", values["disk"]),
            gpu=Slice(memory_bytes=gpu.memory, compute_pct=gpu.cores) if gpu else None,
        ),
        settings=settings,
        start_timeout_s=_seconds(timeout),
        index=index,
        title=dict(variant.title) if variant.title else None,
    )


def pin(course: Course, profile: Profile, variant_index: int, options: Mapping[str, str]) -> dict[str, Json]:
    """What a lease remembers of the profile, as JSON: later edits of the course do not change a running server."""
    idle, limits = profile.idle, profile.limits
    pinned: dict[str, Json] = {
        "title": dict(profile.title),
        "course_title": dict(course.title),
        "options": dict(options),
        "variant": resolve_profile(profile, options, variant_index).to_json(),
        "index": variant_index,
        "fallback": profile.fallback,
        "queue": profile.queue,
        "queue_for_s": _seconds(profile.queue_for),
        "limits": {"per_user": limits.per_user},
        "cull": {
            "after_s": _seconds(idle.after),
            "gpu_after_s": _seconds(idle.gpu_after),
            "max_age_s": _seconds(limits.max_age),
            "action": idle.action,
            "retain_s": _seconds(idle.retain),
            "warn_s": [span.total_seconds() for span in sorted(idle.warn, reverse=True)],
            "extend": {"step_s": _seconds(idle.extend.step), "per_day": idle.extend.per_day} if idle.extend else None,
            "hold_s": 0.0 if idle.hold == "never" else _seconds(idle.hold),
        },
    }
    return pinned


def revision(profile: Profile) -> str:
    """12 hexadecimal characters, the same for the same profile: order of keys and way of writing units do not count."""
    data = profile.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    canonical = json.dumps(data, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _seconds(span: timedelta | None) -> float | None:
    return None if span is None else span.total_seconds()
