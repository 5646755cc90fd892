"""An administrator's settings are checked together, with what to write instead."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from builders import NOW
from traitlets import TraitError
from traitlets.config import Config

from labspawner.config import ENTRY_POINT_GROUP, Labspawner, Settings, course_of_profile_list, open_providers
from labspawner.errors import BadConfig
from labspawner.providers.contract import Provider, ProviderContext
from labspawner.providers.sim import SimProvider


def settings(tmp_path: Path, **given: object) -> Settings:
    return Labspawner(config=Config({"Labspawner": {"data_dir": str(tmp_path), **given}})).settings()


def test_the_defaults_are_valid_and_stay_in_the_data_folder(tmp_path: Path):
    made = settings(tmp_path)

    assert made.database_url == f"sqlite:///{tmp_path / 'labspawner.sqlite'}"
    assert made.providers == {"local": {}}
    assert 1 <= len(made.hub_id) <= 32


@pytest.mark.parametrize("hub_id", ["", "Hub", "a b", "-x", "x-", "a" * 33, "ü"])
def test_a_hub_id_that_cannot_stand_on_every_host_is_refused(tmp_path: Path, hub_id: str):
    with pytest.raises(BadConfig, match="hub_id"):
        settings(tmp_path, hub_id=hub_id)


@pytest.mark.parametrize("providers", [{}, {"local": None}, {"local": "x"}])
def test_providers_that_say_nothing_are_refused_with_an_example(tmp_path: Path, providers: object):
    with pytest.raises(BadConfig, match="providers"):
        settings(tmp_path, providers=providers)


def test_a_data_folder_that_cannot_be_made_is_refused_with_the_reason(tmp_path: Path):
    (tmp_path / "file").write_text("")

    with pytest.raises(BadConfig, match="data_dir"):
        settings(tmp_path / "file" / "below")


@pytest.mark.parametrize("given", [{"brake_share": 1.5}, {"observe_interval_s": 0}, {"culler_interval_s": 0}])
def test_a_number_out_of_range_is_refused(tmp_path: Path, given: dict[str, object]):
    with pytest.raises(TraitError):
        Labspawner(config=Config({"Labspawner": {"data_dir": str(tmp_path), **given}}))


async def test_each_configured_name_gets_a_provider_of_its_kind_and_a_folder_of_its_own(tmp_path: Path):
    opened = open_providers(settings(tmp_path, providers={"local": {}, "lab-a": {"kind": "sim", "start_s": 1}}))

    assert {name: provider.name for name, provider in opened.items()} == {"local": "local", "lab-a": "lab-a"}
    assert all(isinstance(provider, Provider) for provider in opened.values())
    assert (tmp_path / "providers" / "lab-a").is_dir()
    for provider in opened.values():
        await provider.close()


def test_a_kind_that_nobody_installed_is_refused_with_those_that_are(tmp_path: Path):
    with pytest.raises(BadConfig, match=r"local.*sim"):
        open_providers(settings(tmp_path, providers={"docker": {}}))


def test_a_setting_that_the_provider_does_not_know_is_refused(tmp_path: Path):
    with pytest.raises(BadConfig, match="max_server"):
        open_providers(settings(tmp_path, providers={"local": {"max_server": 3}}))


def test_every_setting_says_its_unit_or_gives_an_example_or_a_reason():
    for name, trait in Labspawner.class_own_traits(config=True).items():
        assert len(trait.help) > 40, name


async def test_a_provider_that_asks_for_parts_of_the_hubs_configuration_gets_those_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    given: list[dict[str, Any]] = []

    def open_one(context: ProviderContext, options: dict[str, Any]) -> SimProvider:
        given.append(options)
        return SimProvider(context, {})

    open_one.hub_config = ("KubeSpawner", "Spawner")  # type: ignore[attr-defined]
    point = EntryPoint("curious", "x:y", ENTRY_POINT_GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda self: open_one)
    monkeypatch.setattr("labspawner.config.entry_points", lambda group: [point])
    hub = {"KubeSpawner": {"image": "lab/base:1"}, "CryptKeeper": {"keys": ["secret"]}}
    config = Config({"Labspawner": {"data_dir": str(tmp_path), "providers": {"curious": {"a": 1}}}, **hub})
    made = Labspawner(config=config).settings()

    for provider in open_providers(made).values():
        await provider.close()

    assert given == [{"a": 1, "hub_config": {"KubeSpawner": {"image": "lab/base:1"}, "Spawner": {}}}]
    assert "secret" not in repr(made)


async def test_each_provider_has_reservations_of_its_own_in_the_hubs_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    contexts: list[ProviderContext] = []

    def open_one(context: ProviderContext, options: dict[str, Any]) -> Provider:
        contexts.append(context)
        return SimProvider(context, {})

    point = EntryPoint("curious", "x:y", ENTRY_POINT_GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda self: open_one)
    monkeypatch.setattr("labspawner.config.entry_points", lambda group: [point])
    made = settings(tmp_path, providers={"curious": {}, "other": {"kind": "curious"}})

    opened = open_providers(made)
    first, second = [context.reservations for context in contexts]
    assert first is not None
    assert second is not None
    taken = [await each.take("vmid", ["100"], owner, NOW) for each, owner in ((first, "a"), (second, "b"))]

    assert taken == ["100", "100"]
    assert [each.owner for each in await first.held(NOW)] == ["a"]
    assert (tmp_path / "labspawner.sqlite").is_file()
    for each in (first, second, *opened.values()):
        await each.close()


def with_profile_list(tmp_path: Path, profile_list: object, providers: object) -> Settings:
    given = {"Labspawner": {"data_dir": str(tmp_path), "providers": providers}}
    return Labspawner(config=Config({**given, "KubeSpawner": {"profile_list": profile_list}})).settings()


PROFILE_LIST = [
    {
        "display_name": "Data science",
        "default": True,
        "kubespawner_override": {"image": "lab/ds:1", "mem_limit": "4G", "extra_labels": {"a": "b"}},
        "profile_options": {
            "size": {
                "display_name": "Size",
                "choices": {
                    "small": {"display_name": "Small", "kubespawner_override": {"cpu_limit": 1}},
                    "large": {"display_name": "Large", "kubespawner_override": {"cpu_limit": 4}},
                },
            }
        },
    }
]


@pytest.mark.parametrize("shape", ["a list", "a dict, as the official chart has it"])
def test_the_profile_list_of_kubespawner_becomes_a_course_that_everybody_sees(tmp_path: Path, shape: str):
    entries: object = PROFILE_LIST if shape == "a list" else {"01": PROFILE_LIST[0]}

    found = course_of_profile_list(with_profile_list(tmp_path, entries, {"kubernetes": {}}))

    assert found is not None
    assert found.course.access.everyone
    (profile,) = found.course.profiles
    assert found.course.key(profile) == "profiles/data-science"
    (variant,) = profile.variants
    assert (variant.provider, variant.image, variant.memory) == ("kubernetes", "lab/ds:1", 4 * 2**30)
    assert variant.settings == {"kubespawner_override": {"extra_labels": {"a": "b"}}}
    assert PROFILE_LIST[0]["display_name"] == "Data science"


@pytest.mark.parametrize(
    ("profile_list", "providers"),
    [([], {"kubernetes": {}}), (PROFILE_LIST, {"local": {}})],
    ids=["empty", "no provider"],
)
def test_without_profiles_or_a_provider_for_them_there_is_no_such_course(
    tmp_path: Path, profile_list: object, providers: object
):
    assert course_of_profile_list(with_profile_list(tmp_path, profile_list, providers)) is None


@pytest.mark.parametrize(
    ("profile_list", "words"),
    [
        ([{"display_name": "A", "kubespawner_override": {"image": print}}], "function"),
        ([{"display_name": "A", "colour": "red"}], "colour"),
        ([{"display_name": "A"}, {"display_name": "A"}], "slug"),
    ],
)
def test_a_profile_list_that_cannot_be_read_is_refused_with_the_place(tmp_path: Path, profile_list: object, words: str):
    with pytest.raises(BadConfig, match=words) as failure:
        course_of_profile_list(with_profile_list(tmp_path, profile_list, {"kubernetes": {}}))

    assert "c.KubeSpawner.profile_list" in str(failure.value)


# -- what courses of the console may ask for -----------------------------------------------------------------------


def test_a_course_of_the_console_may_write_few_and_harmless_settings_by_default(tmp_path: Path):
    providers = {"local": {}, "vms": {"kind": "proxmox"}, "pods": {"kind": "kubernetes"}}
    bounds = settings(tmp_path, providers=providers).bounds

    assert bounds.settings_of("local") == bounds.settings_of("pods") == {"default_url", "environment"}
    assert bounds.settings_of("vms") == {"default_url", "environment", "desktop", "hibernate", "jupyter", "os"}
    assert (bounds.profiles, bounds.images, bounds.everyone) == (20, (), False)


def test_an_administrator_names_the_settings_by_provider_or_kind(tmp_path: Path):
    providers = {"local": {}, "a": {"kind": "sim"}, "b": {"kind": "sim"}, "c": {"kind": "proxmox"}}
    given = {"a": ["x"], "sim": ["y"], "*": ["z"]}
    bounds = settings(tmp_path, providers=providers, console_settings=given).bounds

    found = {name: set(bounds.settings_of(name)) for name in ("a", "b", "local", "other")}
    assert found == {"a": {"x"}, "b": {"y"}, "local": {"z"}, "other": {"z"}}
    assert "os" in bounds.settings_of("c")


def test_limits_are_read_with_their_units(tmp_path: Path):
    limits = {"profiles": 3, "memory": "16GiB", "gpu_cores": "50%", "max_age": "12h"}
    made = settings(tmp_path, console_limits=limits, console_images=["lab/*"], console_creators=[])

    assert (made.bounds.profiles, made.bounds.images) == (3, ("lab/*",))
    assert made.bounds.ceilings.memory_bytes == 2**34
    assert (made.bounds.ceilings.gpu_cores_pct, made.bounds.ceilings.max_age_s) == (50, 43200)
    assert made.console_creators == ()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"console_limits": {"memory": 16}}, "16"),
        ({"console_limits": {"memroy": "1GiB"}}, "memroy"),
        ({"console_limits": {"profiles": 0}}, "profiles is 0"),
        ({"console_limits": {"profiles": "many"}}, "profiles is many"),
        ({"console_settings": {"local": "network"}}, "'local'"),
        ({"console_settings": {"local": [1]}}, "'local'"),
    ],
)
def test_a_bound_that_cannot_be_read_is_said_at_hub_start(tmp_path: Path, given: dict[str, object], says: str):
    with pytest.raises(BadConfig, match="console_") as refused:
        settings(tmp_path, **given)
    assert says in str(refused.value.message)
