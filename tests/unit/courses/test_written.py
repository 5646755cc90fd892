"""What a course of the console may not do, and every way around it that we know."""

from __future__ import annotations

from typing import Any

import pytest
from unit.courses.course_files import a_course, text_of

from labspawner.courses import Bounds, Ceilings, Loaded, Problem, check_written, groups_of
from labspawner.courses.bounds import claimed
from labspawner.courses.written import MAX_WRITTEN_BYTES, check_slug
from labspawner.model import CourseRole
from labspawner.pages.i18n import CHINESE, translate
from labspawner.sentences import Sentence

GIB = 2**30


def course(extra: str = "", *, variant: str = "provider: local", options: str = "", profile: str = "") -> str:
    return (
        f"course: ml1\ntitle: Machine Learning\n{extra}\nprofiles:\n  - slug: base\n    title: Base\n"
        f"    variants: [{{{variant}}}]\n    {options}\n    {profile}\n"
    )


def check(text: str, *, slug: str = "ml1", providers: Any = None, **bounds: Any) -> Loaded | tuple[Problem, ...]:
    return check_written(text, slug=slug, bounds=Bounds(**bounds), providers=providers)


def refusal(text: str, **what: Any) -> str:
    """What is said of a course that is refused."""
    found = check(text, **what)
    assert isinstance(found, tuple), "it was taken"
    assert found
    assert all(isinstance(problem.message, Sentence) for problem in found), found
    assert all(translate(problem.message, CHINESE) != problem.message for problem in found), found
    return " | ".join(problem.message for problem in found)


def taken(text: str, **what: Any) -> bool:
    found = check(text, **what)
    return isinstance(found, Loaded) or pytest.fail(str(found))


def test_a_harmless_course_is_taken():
    text = course(
        "timezone: Asia/Shanghai",
        variant="provider: local, memory: 1GiB, settings: {default_url: /lab/tree/a.ipynb, environment: {COURSE: ml1}}",
    )

    found = check(text, providers=["local"])

    assert isinstance(found, Loaded)
    assert found.course.access.groups == ("course-ml1",)


# -- whose it is ---------------------------------------------------------------------------------------------------


def test_a_course_keeps_the_name_under_which_it_is_written():
    assert "for good: write course: other" in refusal(course(), slug="other")


@pytest.mark.parametrize(
    "access",
    [
        "groups: [course-dl101]",
        "groups: [course-ml1, admins]",
        "groups: []",
        "staff: [course-ml1-instructors, students]",
        "staff: []",
        "staff: [course-dl101-instructors]",
        "staff: ['course-ml1-instructors ', x]",
    ],
)
def test_a_course_has_its_own_groups_and_no_others(access: str):
    assert "and no other: leave" in refusal(course(f"access: {{{access}}}"))
    assert taken(course("access: {groups: [course-ml1], staff: [course-ml1-instructors]}"))


def test_only_an_administrator_opens_a_course_to_everyone():
    text = course("access: {everyone: true}")

    assert "only an administrator" in refusal(text)
    assert isinstance(check_written(text, slug="ml1", bounds=Bounds().for_admin(), providers=None), Loaded)


@pytest.mark.parametrize("slug", ["ml1-instructors", "ml1-assistants", "a-b-instructors"])
def test_no_course_gets_a_name_whose_group_would_be_the_staff_of_another(slug: str):
    assert "the staff of another course" in refusal(text_of(slug), slug=slug)
    assert groups_of("ml1")[CourseRole.INSTRUCTOR] == groups_of("ml1-instructors")[CourseRole.MEMBER]


def test_a_course_in_a_file_keeps_its_name():
    bounds = Bounds().beside([a_course("ml1")])

    found = check_written(course(), slug="ml1", bounds=bounds, providers=None)

    assert isinstance(found, tuple)
    assert "files win" in found[0].message


@pytest.mark.parametrize(
    "group", ["course-ml1", "course-ml1-instructors", "course-ml1-assistants"], ids=["members", "staff", "assistants"]
)
def test_a_new_course_takes_over_no_group_that_there_is(group: str):
    hub = Bounds().beside([], groups=["others", group])
    named = Bounds().beside([a_course("dl101", access={"groups": [group], "staff": ["x"]})], groups=[])

    assert "means something else" in str(check_slug("ml1", hub))
    assert "means something else" in str(check_slug("ml1", named))
    assert check_slug("ml2", hub) is None


def test_an_old_course_is_not_refused_for_its_own_groups():
    bounds = Bounds().beside([a_course("dl101", access={"groups": ["course-ml1"]})])

    assert check_slug("ml1", bounds) is None


def test_every_group_of_a_file_course_is_claimed():
    mine = a_course("dl101", access={"groups": ["a"], "staff": ["b"]})

    assert claimed([mine]) == {"a", "b", "course-dl101", "course-dl101-instructors", "course-dl101-assistants"}


# -- settings ------------------------------------------------------------------------------------------------------

CHOICE = "options: {o: {title: O, choices: {c: {title: C, set: {%s}}}}}"
TYPED = "options: {o: {title: O, unlisted_choice: {enabled: true, validation_regex: '[a-z]+', set: {%s}}}}"


def everywhere(keys: str) -> list[str]:
    """A course with these keys in each place where a variant's keys can stand."""
    return [course(variant=f"provider: local, {keys}"), course(options=CHOICE % keys), course(options=TYPED % keys)]


@pytest.mark.parametrize(
    "setting",
    [
        "command: [bash]",
        "network: egress",
        "interpreter: /tmp/python",
        "ready: started",
        "pci: {mapping: gpu}",
        "kubespawner_override: {privileged: true}",
        "node_selector: {a: b}",
        "service_account: admin",
        "storage: {size: 1TiB}",
        "ssh_keys: [x]",
        "bridge: vmbr0",
    ],
)
def test_no_setting_that_reaches_beyond_a_students_server_is_taken_anywhere(setting: str):
    for text in everywhere(f"settings: {{{setting}}}"):
        assert "is for course files" in refusal(text)


def test_an_administrator_decides_which_settings_may_be_written():
    settings = {"local": frozenset({"network"}), "*": frozenset({"x"})}

    assert taken(course(variant="provider: local, settings: {network: none}"), settings=settings)
    assert taken(course(variant="provider: other, settings: {x: 1}"), settings=settings)
    assert "is for course files" in refusal(
        course(variant="provider: other, settings: {network: none}"), settings=settings
    )
    assert "is for course files" in refusal(
        course(variant="provider: local, settings: {default_url: /lab}"), settings=settings
    )


def test_a_choice_may_set_only_what_every_variant_may():
    settings = {"local": frozenset({"network"}), "*": frozenset()}
    both = (CHOICE % "settings: {network: none}") + "\n"

    assert taken(course(options=both), settings=settings)
    assert "is for course files" in refusal(
        course(variant="provider: local}, {provider: other", options=both), settings=settings
    )


def test_kubespawners_words_are_no_way_around_it():
    listed = (
        "course: ml1\ntitle: T\nprofile_list:\n"
        "  - {display_name: A, kubespawner_override: {image: x, privileged: true}}\n"
    )

    assert "'kubespawner_override' is for course files" in refusal(listed)
    assert taken(listed.replace(", privileged: true", ""))


@pytest.mark.parametrize(
    "name",
    [
        *("LD_PRELOAD", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_DISABLE_CONTROL", "NVIDIA_VISIBLE_DEVICES"),
        *("PYTHONPATH", "PYTHONSTARTUP", "JUPYTERHUB_API_TOKEN", "JUPYTER_CONFIG_DIR", "PATH", "HOME", "ld_preload"),
        *(
            "HTTPS_PROXY",
            "http_proxy",
            "No_Proxy",
            "REQUESTS_CA_BUNDLE",
            "PIP_INDEX_URL",
            "CONDA_CHANNELS",
            "R_PROFILE",
        ),
        *("Path", "GIT_SSH_COMMAND", "BASH_ENV", "NODE_OPTIONS", "GLIBC_TUNABLES", "ACTIVE_OOM_KILLER", "LABSPAWNER_X"),
    ],
)
def test_no_variable_that_the_loader_the_slice_or_the_hub_reads_is_taken(name: str):
    for text in everywhere(f"settings: {{environment: {{{name}: x}}}}"):
        assert "may not be set" in refusal(text)


@pytest.mark.parametrize("name", ["'A=B'", "'A B'", "1A", "''", "'A\\nB'", "变量", "'${X}'", "A-B"])
def test_what_is_no_name_of_a_variable_is_refused(name: str):
    assert "name of a variable" in refusal(course(variant=f"provider: local, settings: {{environment: {{{name}: x}}}}"))


@pytest.mark.parametrize("value", ["1", "[a]", "{a: b}", "null", "true", "x" * 1001])
def test_a_variables_value_is_short_text(value: str):
    assert "put it in quotes" in refusal(course(variant=f"provider: local, settings: {{environment: {{A: {value}}}}}"))


def test_variables_are_a_group_of_some_fifty_at_most():
    many = ", ".join(f"A{number}: x" for number in range(51))

    assert "are the most" in refusal(course(variant=f"provider: local, settings: {{environment: {{{many}}}}}"))
    assert "variables are expected" in refusal(course(variant="provider: local, settings: {environment: [A]}"))


@pytest.mark.parametrize(
    "url",
    [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "lab",
        "/a b",
        "/a\\tb",
        "/%s" % ("x" * 600),
        "[a]",
        "''",
    ],
)
def test_a_browser_is_sent_nowhere_but_into_the_server(url: str):
    text = course(variant=f'provider: local, settings: {{default_url: "{url}"}}' if url != "[a]" else
                  "provider: local, settings: {default_url: [a]}")  # fmt: skip

    assert "is not a path in the server" in refusal(text)


def test_what_a_student_types_does_not_begin_the_path():
    text = course(options=TYPED % "settings: {default_url: '/{value}'}")

    assert "begin with a fixed path" in refusal(text)
    assert taken(course(options=TYPED % "settings: {default_url: '/lab/tree/{value}'}"))


# -- images, sizes, times ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["image", "template"])
def test_only_images_and_templates_that_fit_a_pattern_are_taken(key: str):
    images = ("lab/*:2026.*", "ubuntu-dl")

    for text in everywhere(f"{key}: 'evil/miner:1'"):
        assert "may not be used here" in refusal(text, images=images)
        assert taken(text)
    assert taken(course(variant=f"provider: local, {key}: 'lab/scipy:2026.2'"), images=images)
    assert "students cannot type one" in refusal(
        course(options=TYPED % f"{key}: 'lab/{{value}}:2026.2'"), images=images
    )


@pytest.mark.parametrize("image", ["LAB/scipy:2026.2", "xlab/a:2026.1", "lab/a:2025.1", "lab/a:2026.1\\u202e"])
def test_an_image_that_only_looks_like_the_pattern_is_refused(image: str):
    refusal(course(variant=f'provider: local, image: "{image}"'), images=("lab/?:2026.1", "lab/a:2026.2"))


@pytest.mark.parametrize(
    ("key", "ceiling", "over", "fits"),
    [
        ("cpu", Ceilings(cpu=4), "cpu: 4.5", "cpu: 4"),
        ("memory", Ceilings(memory_bytes=8 * GIB), "memory: 8193MiB", "memory: 8GiB"),
        ("disk", Ceilings(disk_bytes=8 * GIB), "disk: 9GiB", "disk: 8GiB"),
        ("start_timeout", Ceilings(start_timeout_s=300), "start_timeout: 6m", "start_timeout: 5m"),
        ("gpu", Ceilings(gpu_memory_bytes=6 * GIB), "gpu: {memory: 7GiB}", "gpu: {memory: 6GiB}"),
        ("gpu", Ceilings(gpu_cores_pct=50), "gpu: {memory: 1GiB}", "gpu: {memory: 1GiB, cores: 50%}"),
        ("gpu", Ceilings(gpu_cards=1), "gpu: {memory: 1GiB, cards: 2}", "gpu: {memory: 1GiB, cards: 1}"),
    ],
)
def test_a_server_asks_for_no_more_than_the_ceiling_in_any_place(key: str, ceiling: Ceilings, over: str, fits: str):
    base = {"cpu": "cpu: 1", "memory": "memory: 1GiB"}.get(key, "")

    assert "is more than the" in refusal(course(variant=f"provider: local, {over}"), ceilings=ceiling)
    for option in (CHOICE, TYPED):
        text = course(variant=f"provider: local, {base}", options=option % over)
        assert "is more than the" in refusal(text, ceilings=ceiling)
    assert taken(course(variant=f"provider: local, {fits}"), ceilings=ceiling)


@pytest.mark.parametrize(("key", "ceiling"), [("cpu", Ceilings(cpu=4)), ("memory", Ceilings(memory_bytes=GIB))])
def test_a_ceiling_is_not_dodged_by_leaving_the_key_out(key: str, ceiling: Ceilings):
    value = {"cpu": "2", "memory": "1GiB"}[key]

    assert f"{key} is missing" in refusal(course(), ceilings=ceiling)
    assert f"{key} is missing" in refusal(
        course(variant=f"provider: local, {key}: {value}", options=CHOICE % f"{key}: null"), ceilings=ceiling
    )
    assert taken(course(variant=f"provider: local, {key}: {value}", options=CHOICE % "disk: 1GiB"), ceilings=ceiling)


def test_how_old_and_how_idle_a_server_may_get_has_a_ceiling():
    ceilings = Ceilings(max_age_s=3600, idle_s=600, retain_s=86400)

    assert "max_age is missing" in refusal(course(), ceilings=ceilings)
    assert "after is missing" in refusal(course(), ceilings=ceilings)
    said = refusal(course(profile="idle: {after: 11m, retain: 2d}\n    limits: {max_age: 61m}"), ceilings=ceilings)
    assert said.count("is more than the") == 3
    assert taken(course(profile="idle: {after: 10m}\n    limits: {max_age: 1h}"), ceilings=ceilings)


def test_a_course_does_not_lift_the_limit_on_compute_time():
    assert "only a course file" in refusal(
        course(variant="provider: local, gpu: {memory: 1GiB, policy: off}".replace("off", "'off'"))
    )


def test_a_course_has_so_many_profiles_and_no_more():
    text = "course: ml1\ntitle: T\nprofiles:\n" + "".join(
        f"  - {{slug: p{number}, title: P, variants: [{{provider: local}}]}}\n" for number in range(4)
    )

    assert "4 profiles: a course has at most 3" in refusal(text, profiles=3)
    assert taken(text, profiles=4)


@pytest.mark.parametrize(
    "pattern",
    [
        "(?=a)b",
        "(?<!a)b",
        r"(a)\1",
        "(?i)a",
        "(?P<x>a)(?P=x)",
        "(?(1)a|b)",
        r"\bword\b",
        "(" * 50 + "a" + ")" * 50 + "{0,900}x{0,900}",
    ],
)
def test_only_patterns_that_cannot_take_long_are_taken(pattern: str):
    text = course(
        options=f"options: {{o: {{title: O, unlisted_choice: {{enabled: true, validation_regex: '{pattern}'}}}}}}"
    )

    refusal(text)


def test_a_provider_that_the_hub_has_not_is_named():
    assert "the hub has no provider 'local'" in refusal(course(), providers=["kubernetes"])


# -- whatever the text is ------------------------------------------------------------------------------------------


def test_a_text_above_the_size_is_refused_before_it_is_read():
    for text in ("#" * (MAX_WRITTEN_BYTES + 1), "中" * (MAX_WRITTEN_BYTES // 3 + 1), "x" * 10_000_000):
        assert "larger than 256 KiB" in refusal(text)


def test_problems_say_where_they_are_in_the_text():
    found = check(course(variant="provider: local, settings: {network: none}"))

    assert isinstance(found, tuple)
    assert [(problem.file, problem.line, problem.path) for problem in found] == [
        ("console/ml1", 7, "profiles[0].variants[0].settings.network")
    ]


# -- an administrator's settings -----------------------------------------------------------------------------------


def test_bounds_survive_json():
    bounds = Bounds(
        settings={"*": frozenset(), "local": frozenset({"b", "a"})},
        images=("a*",),
        ceilings=Ceilings.read({"memory": "16GiB", "cpu": 0.5, "gpu_cores": "50%", "max_age": "12h", "gpu_cards": 2}),
        profiles=7,
        everyone=True,
    ).beside([a_course()], ["g"])

    assert Bounds.from_json(bounds.to_json()) == bounds


@pytest.mark.parametrize(
    "limits",
    [
        {"memroy": "1GiB"},
        {"memory": 16},
        {"memory": "16"},
        {"cpu": 0},
        {"cpu": True},
        {"max_age": "0s"},
        {"gpu_cards": 17},
    ],
)
def test_a_limit_that_cannot_be_read_is_named(limits: dict[str, Any]):
    with pytest.raises(ValueError, match=next(iter(limits))):
        Ceilings.read(limits)
