"""Courses that instructors write in the console: the loader's check, and what such a course may not do. Pure.

The console shows these problems while somebody types. The hub asks again before it puts a course in force: what stands in
the database was written by a program that it need not trust.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path

from labspawner.courses import patterns
from labspawner.courses.bounds import Bounds, Ceilings, groups_of
from labspawner.courses.fields import shown, write_bytes, write_duration
from labspawner.courses.loader import Loaded, Problem, check_providers, parse_course
from labspawner.courses.models import Course, Profile, VariantKeys
from labspawner.courses.yamltree import Path as TreePath
from labspawner.model import CourseRole
from labspawner.sentences import Sentence

_Write = Callable[[float], str]
_Flaws = Iterator[tuple[TreePath, Sentence]]
MAX_WRITTEN_BYTES = 256 * 1024
MAX_PROBLEMS = 100
RESERVED_SUFFIXES = ("-instructors", "-assistants")
MAX_ENVIRONMENT = 50
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}", re.ASCII)
_FORBIDDEN_PREFIXES = (
    *(
        "LD_",
        "DYLD_",
        "CUDA_",
        "NVIDIA_",
        "LIBCUDA_",
        "GPU_",
        "HAMI_",
        "VGPU_",
    ),  # the loader, and what keeps a slice a slice
    *(
        "PYTHON",
        "PERL5",
        "RUBY",
        "NODE_",
        "NPM_",
        "JAVA_",
        "JDK_",
        "_JAVA_",
        "R_",
        "JULIA_",
    ),  # that run code at a start
    *("PIP_", "UV_", "CONDA_", "MAMBA_", "YARN_", "CARGO_", "GOPROXY", "GOFLAGS"),  # where software comes from
    *("GIT_", "SSH_", "BASH_FUNC_", "MALLOC_", "XDG_", "SUDO_"),
    *("JUPYTER", "JPY_", "LABSPAWNER_", "KUBERNETES_", "IPYTHON"),
)
_FORBIDDEN = frozenset(
    {
        *(
            "PATH",
            "HOME",
            "USER",
            "LOGNAME",
            "SHELL",
            "TMPDIR",
            "TMP",
            "TEMP",
            "PWD",
            "IFS",
            "ENV",
            "BASH_ENV",
            "CDPATH",
        ),
        *("PROMPT_COMMAND", "PS4", "SHELLOPTS", "BASHOPTS", "EDITOR", "VISUAL", "PAGER", "BROWSER", "LESSOPEN"),
        *("GCONV_PATH", "GLIBC_TUNABLES", "LOCPATH", "NLSPATH", "HOSTALIASES", "RES_OPTIONS", "NOTEBOOK_ARGS"),
        *("OPENSSL_CONF", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "CURL_HOME"),
        *("ACTIVE_OOM_KILLER", "NOTEBOOK_DIR", "API_TOKEN", "MATPLOTLIBRC", "MPLCONFIGDIR", "CLASSPATH", "WGETRC"),
    }
)
_FORBIDDEN_END = "_PROXY"  # who names a proxy reads what a student's programs send, tokens too


def check_written(
    text: str, *, slug: str, bounds: Bounds, providers: Collection[str] | None
) -> Loaded | tuple[Problem, ...]:
    """Read a course that somebody wrote in the console as `slug`; what is wrong with it is the answer, never an exception.

    providers: those that the hub has; None: not asked. Whatever the text is, the answer comes in bounded time and memory.
    """
    file = name_of(slug)
    if len(text) > MAX_WRITTEN_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_WRITTEN_BYTES:
        message = Sentence(
            "larger than {most} KiB: keep data out of the course, or split it",
            most=MAX_WRITTEN_BYTES // 1024,
        )
        return (Problem(file, 1, 1, "", message),)
    loaded = parse_course(text, file)
    if not isinstance(loaded, Loaded):
        return _some(loaded)
    problems = [loaded.problem(path, message) for path, message in _wrong(loaded.course, slug, bounds)]
    if providers is not None:
        problems.extend(check_providers(loaded, providers))
    return _some(sorted(set(problems), key=lambda each: (each.line, each.column, each.message))) or loaded


def _some(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    """The first of the problems, and how many more there are."""
    if len(problems) <= MAX_PROBLEMS:
        return tuple(problems)
    last, more = problems[MAX_PROBLEMS], len(problems) - MAX_PROBLEMS
    rest = Problem(
        last.file,
        last.line,
        last.column,
        "",
        Sentence("and {more} more from here on: mend those above first", more=more),
    )
    return (*problems[:MAX_PROBLEMS], rest)


def name_of(slug: str) -> str:
    """What problems and pages call the place where a written course stands, in place of a file's name."""
    return f"console/{Path(slug).name}"


def check_slug(slug: str, bounds: Bounds) -> Sentence | None:
    """Why no course may be written under this short name; None if one may."""
    suffix = next((each for each in RESERVED_SUFFIXES if slug.endswith(each)), None)
    if suffix is not None:
        return Sentence(
            "{slug} ends with {suffix}, and its group would be the staff of another course: write another short name",
            slug=shown(slug),
            suffix=shown(suffix),
        )
    if slug in bounds.taken_courses:
        return Sentence("there is a course file for {slug}, and files win: write another short name", slug=shown(slug))
    taken = [group for group in groups_of(slug).values() if group in bounds.taken_groups]
    if taken:
        return Sentence(
            "the group {group} is there already and means something else: write another short name",
            group=shown(taken[0]),
        )
    return None


def _wrong(course: Course, slug: str, bounds: Bounds) -> _Flaws:
    if course.course != slug:
        yield (
            ("course",),
            Sentence("this course is called {slug}, for good: write course: {name}", slug=shown(slug), name=slug),
        )
        return  # its groups are another course's, and all else that is said would follow from that
    if reason := check_slug(slug, bounds):
        yield ("course",), reason
    yield from _access(course, slug, bounds)
    if len(course.profiles) > bounds.profiles:
        yield (
            ("profiles",),
            Sentence(
                "{count} profiles: a course has at most {most}",
                count=len(course.profiles),
                most=bounds.profiles,
            ),
        )
    for number, profile in enumerate(course.profiles):
        here: TreePath = ("profiles", number)
        yield from _lifetime(profile, here, bounds.ceilings)
        for index, variant in enumerate(profile.variants):
            at: TreePath = (*here, "variants", index)
            yield from _keys(variant, at, bounds, bounds.settings_of(variant.provider), whole=True)
        # A choice counts for whichever variant is taken, so it may write only what all of them may have.
        allowed = frozenset.intersection(*(bounds.settings_of(variant.provider) for variant in profile.variants))
        yield from _options(profile, here, bounds, allowed)


def _access(course: Course, slug: str, bounds: Bounds) -> _Flaws:
    own = groups_of(slug)
    for key, role in (("groups", CourseRole.MEMBER), ("staff", CourseRole.INSTRUCTOR)):
        if set(getattr(course.access, key)) != {own[role]}:
            yield (
                ("access", key),
                Sentence(
                    "a course of the console has the groups {members} and {staff}, and no other: leave {key} out, "
                    "and put people on the roster",
                    members=own[CourseRole.MEMBER],
                    staff=own[CourseRole.INSTRUCTOR],
                    key=key,
                ),
            )
    if course.access.everyone and not bounds.everyone:
        yield (
            ("access", "everyone"),
            Sentence("only an administrator opens a course to everyone: leave it out, or ask one to save it"),
        )


def _lifetime(profile: Profile, here: TreePath, most: Ceilings) -> _Flaws:
    idle, limits = profile.idle, profile.limits
    for path, value, ceiling in (
        (("limits", "max_age"), limits.max_age, most.max_age_s),
        (("idle", "after"), idle.after, most.idle_s),
    ):
        if ceiling is not None:
            yield from _within((*here, *path), path[-1], _seconds(value), ceiling, _time)
    if most.retain_s is not None and idle.retain is not None:
        yield from _within((*here, "idle", "retain"), "retain", _seconds(idle.retain), most.retain_s, _time)


def _options(profile: Profile, here: TreePath, bounds: Bounds, allowed: frozenset[str]) -> _Flaws:
    for name, option in profile.options.items():
        at: TreePath = (*here, "options", name)
        for key, choice in option.choices.items():
            yield from _keys(choice.set, (*at, "choices", key, "set"), bounds, allowed, whole=False)
        typed = option.unlisted_choice
        yield from _keys(typed.set, (*at, "unlisted_choice", "set"), bounds, allowed, whole=False)
        if typed.validation_regex and not patterns.is_regular(typed.validation_regex):
            yield (
                (*at, "unlisted_choice", "validation_regex"),
                Sentence(
                    "this pattern could keep the hub busy: write it with letters, [...], (...|...), ?, *, + "
                    "and {1,9} only, without looking ahead or back and without \\1"
                ),
            )


def _keys(keys: VariantKeys, at: TreePath, bounds: Bounds, allowed: frozenset[str], *, whole: bool) -> _Flaws:
    """What is wrong with the keys of a variant, or (whole False) with those that a choice replaces."""
    most = bounds.ceilings
    sizes = (
        ("cpu", keys.cpu, most.cpu, _number),
        ("memory", keys.memory, most.memory_bytes, _bytes),
    )
    for name, value, ceiling, write in sizes:
        if ceiling is not None and (whole or name in keys.model_fields_set):
            yield from _within((*at, name), name, value, ceiling, write)
    if most.disk_bytes is not None and keys.disk is not None:
        yield from _within((*at, "disk"), "disk", keys.disk, most.disk_bytes, _bytes)
    if most.start_timeout_s is not None and keys.start_timeout is not None:
        waits = _seconds(keys.start_timeout)
        yield from _within((*at, "start_timeout"), "start_timeout", waits, most.start_timeout_s, _time)
    yield from _gpu(keys, at, most)
    for name in ("image", "template"):
        yield from _image(getattr(keys, name), (*at, name), bounds.images)
    yield from _settings(keys.settings, (*at, "settings"), allowed)


def _gpu(keys: VariantKeys, at: TreePath, most: Ceilings) -> _Flaws:
    gpu = keys.gpu
    if gpu is None:
        return
    if most.gpu_memory_bytes is not None:
        yield from _within((*at, "gpu", "memory"), "memory", gpu.memory, most.gpu_memory_bytes, _bytes)
    if most.gpu_cores_pct is not None:
        yield from _within((*at, "gpu", "cores"), "cores", gpu.cores, most.gpu_cores_pct, _share)
    if most.gpu_cards is not None:
        yield from _within((*at, "gpu", "cards"), "cards", gpu.cards or 1, most.gpu_cards, _number)
    if gpu.policy == "off":
        yield (
            (*at, "gpu", "policy"),
            Sentence("only a course file may lift the limit on compute time: write fair or force"),
        )


def _image(value: str | None, at: TreePath, images: tuple[str, ...]) -> _Flaws:
    if value is None or not images:
        return
    if "{value}" in value:
        yield at, Sentence("here only certain images may be used, so students cannot type one: list them as choices")
    elif not any(fnmatchcase(value, pattern) for pattern in images):
        yield (
            at,
            Sentence("{value} may not be used here: write one of {names}", value=shown(value), names=", ".join(images)),
        )


def _settings(settings: Mapping[str, object], at: TreePath, allowed: frozenset[str]) -> _Flaws:
    for key, value in settings.items():
        if key not in allowed:
            known = ", ".join(sorted(allowed)) or Sentence("none")
            yield (
                (*at, key),
                Sentence(
                    "the setting {key} is for course files: here you may write {known}", key=shown(key), known=known
                ),
            )
        elif key == "environment":
            yield from _environment(value, (*at, key))
        elif key == "default_url":
            yield from _landing(value, (*at, key))


def _environment(value: object, at: TreePath) -> _Flaws:
    if not isinstance(value, Mapping):
        yield (
            at,
            Sentence(
                "{value} stands where variables are expected: write environment: {{COURSE: py101}}", value=shown(value)
            ),
        )
        return
    if len(value) > MAX_ENVIRONMENT:
        yield (
            at,
            Sentence("{count} variables: {most} are the most", count=len(value), most=MAX_ENVIRONMENT),
        )
    for name, text in value.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            yield (
                (*at, str(name)),
                Sentence("{name} is not the name of a variable: write letters, digits and _", name=shown(name)),
            )
        elif _forbidden(name.upper()):
            yield (*at, name), Sentence("the variable {name} may not be set by a course: remove it", name=shown(name))
        elif not isinstance(text, str) or "\0" in text or len(text) > 1000:
            yield (
                (*at, name),
                Sentence("{text} is not text of at most 1000 characters: put it in quotes", text=shown(text)),
            )


def _forbidden(name: str) -> bool:
    return name in _FORBIDDEN or name.startswith(_FORBIDDEN_PREFIXES) or name.endswith(_FORBIDDEN_END)


def _landing(value: object, at: TreePath) -> _Flaws:
    """A browser follows it: anything but a path of the server leads somewhere else."""
    if not isinstance(value, str) or not re.fullmatch(r"/(?![/\\])[^\\\s\x00-\x1f\x7f]{0,500}", value):
        yield (
            at,
            Sentence(
                "{value} is not a path in the server: begin with one slash, for example /lab/tree/week1.ipynb",
                value=shown(value),
            ),
        )
    elif value.startswith("/{value}"):
        yield (
            at,
            Sentence(
                "students cannot type where the browser goes first: begin with a fixed path, for example "
                "/lab/tree/{value}"
            ),
        )


def _within(at: TreePath, name: str, value: float | None, most: float, write: _Write) -> _Flaws:
    if value is None:
        yield (
            at,
            Sentence(
                "{name} is missing, and may be at most {most} here: write {name}: {most}",
                name=name,
                most=write(most),
            ),
        )
    elif value > most:
        yield (
            at,
            Sentence(
                "{value} is more than the {most} that {name} may be here",
                value=write(value),
                most=write(most),
                name=name,
            ),
        )


def _seconds(span: timedelta | None) -> float | None:
    return None if span is None else span.total_seconds()


def _number(value: float) -> str:
    return f"{value:g}"


def _bytes(value: float) -> str:
    return write_bytes(int(value))


def _share(value: float) -> str:
    return f"{value:g}%"


def _time(value: float) -> str:
    return write_duration(timedelta(seconds=value))
