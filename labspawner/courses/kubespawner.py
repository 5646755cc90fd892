"""KubeSpawner's `profile_list` words, said in ours. Plain data in, plain data out; shapes are checked by the models."""

from __future__ import annotations

import re
from collections.abc import Mapping

from labspawner.courses.fields import shown
from labspawner.sentences import Sentence

_COMMON = {"display_name": "title", "description": "summary"}
_PROFILE = {**_COMMON, "profile_options": "options"}
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT])B?", re.ASCII)  # JupyterHub's ByteSpecification: powers of 1024


def _renamed(data: Mapping[str, object], names: Mapping[str, str]) -> dict[str, object]:
    for theirs, ours in names.items():
        if theirs in data and ours in data:
            raise ValueError(
                Sentence("{theirs} and {ours} mean the same: write only {ours}", theirs=repr(theirs), ours=repr(ours))
            )
    return {names.get(key, key): value for key, value in data.items()}


def lift_override(override: object) -> dict[str, object]:
    """A `kubespawner_override` as variant keys: what we have a word for is lifted, the rest goes into `settings`."""
    if not isinstance(override, Mapping):
        raise ValueError(
            Sentence("kubespawner_override is {override}: write keys of KubeSpawner below it", override=shown(override))
        )
    rest = dict(override)
    lifted: dict[str, object] = {}
    if isinstance(rest.get("image"), str):
        lifted["image"] = rest.pop("image")
    cpu = rest.get("cpu_limit")
    if isinstance(cpu, (int, float)) and not isinstance(cpu, bool) and cpu > 0:
        lifted["cpu"] = rest.pop("cpu_limit")
    memory = rest.get("mem_limit")
    match = _MEMORY.fullmatch(memory) if isinstance(memory, str) else None
    if match:
        lifted["memory"] = f"{match[1]}{match[2]}iB"
        del rest["mem_limit"]
    elif isinstance(memory, int) and memory >= 1024 and memory % 1024 == 0:
        lifted["memory"] = f"{memory // 1024}KiB"
        del rest["mem_limit"]
    if rest:
        lifted["settings"] = {"kubespawner_override": rest}
    return lifted


def _lift_set(data: Mapping[str, object], names: Mapping[str, str]) -> dict[str, object]:
    lifted = _renamed(data, names)
    if "kubespawner_override" in lifted:
        if "set" in lifted:
            raise ValueError(Sentence("'kubespawner_override' and 'set' mean the same: write only 'set'"))
        lifted["set"] = lift_override(lifted.pop("kubespawner_override"))
    return lifted


def lift_option_choice(data: object) -> object:
    """One choice of an option."""
    return _lift_set(data, _COMMON) if isinstance(data, Mapping) else data


def lift_unlisted(data: object) -> object:
    """The free-form choice of an option. `display_name` labels the field, `display_name_in_choices` the entry."""
    return _lift_set(data, {"display_name": "title"}) if isinstance(data, Mapping) else data


def lift_option(data: object) -> object:
    """One entry of `profile_options`."""
    return _renamed(data, _COMMON) if isinstance(data, Mapping) else data


def lift_profile(data: object) -> object:
    """One profile: in our words already, in KubeSpawner's, or in a mixture without contradiction."""
    if not isinstance(data, Mapping):
        return data
    lifted = _renamed(data, _PROFILE)
    if "kubespawner_override" in lifted:
        if "variants" in lifted:
            raise ValueError(Sentence("'kubespawner_override' and 'variants' mean the same: write only 'variants'"))
        lifted["variants"] = [{"provider": "kubernetes", **lift_override(lifted.pop("kubespawner_override"))}]
    return lifted


def lift_list_entry(data: object) -> object:
    """One entry of a `profile_list`, where slug and override may be left out."""
    lifted = lift_profile(data)
    if not isinstance(lifted, dict):
        return lifted
    if "variants" not in lifted:
        lifted["variants"] = [{"provider": "kubernetes"}]
    title = lifted.get("title")
    if "slug" not in lifted and isinstance(title, str):
        slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].strip("-")
        if slug and title.isascii():
            lifted["slug"] = slug
    return lifted
