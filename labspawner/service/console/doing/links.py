"""Links that open the right profile, and bring its files. They are made here and followed by browsers; nothing is fetched."""

from __future__ import annotations

from urllib.parse import quote, urlencode, urlsplit

from labspawner.sentences import Sentence
from labspawner.service.console.house import House
from labspawner.service.console.problems import Invalid
from labspawner.service.console.rights import Caller, Verb

MAX_URL = 500
NO_GIT_URL = Sentence("Write the address of the repository as your browser shows it: https://host/owner/name")
NO_PATH = Sentence("Write the path as it stands in the repository, without .. and without a slash in front.")
NO_BRANCH = Sentence("This is no name of a branch.")


async def permalink(house: House, caller: Caller, slug: str, profile: str) -> str:
    """The path, from the hub's root, of the page on which this profile is picked already."""
    await house.require_course(caller, Verb.READ, slug)
    return f"{house.base_url}hub/spawn?{urlencode({'profile': f'{slug}/{profile}'})}"


async def nbgitpuller(
    house: House, caller: Caller, slug: str, profile: str, *, repo: str, branch: str = "", path: str = ""
) -> str:
    """The path of a link that starts the profile, where nothing runs, and brings a repository into the home. The repository
    is not looked at. Raises Invalid for what is no address, branch or path."""
    await house.require_course(caller, Verb.READ, slug)
    _refuse_bad(repo, branch, path)
    name = urlsplit(repo).path.rstrip("/").rpartition("/")[2].removesuffix(".git")
    inside = f"{name}/{path}".rstrip("/")
    pull = {"repo": repo, **({"branch": branch} if branch else {}), "urlpath": f"lab/tree/{quote(inside)}"}
    after = f"{house.base_url}user-redirect/git-pull?{urlencode(pull)}"
    start = {"profile": f"{slug}/{profile}", "next": after}
    return f"{house.base_url}hub/spawn?{urlencode(start)}"


def _refuse_bad(repo: str, branch: str, path: str) -> None:
    try:
        parts = urlsplit(repo)
        host, port_is_fine = parts.hostname, parts.port is None or parts.port > 0
    except ValueError as exc:
        raise Invalid(NO_GIT_URL) from exc
    whole = parts.scheme in {"https", "http"} and host and port_is_fine and parts.path.strip("/")
    if not whole or parts.username or parts.password or len(repo) > MAX_URL or _has_control(repo):
        raise Invalid(NO_GIT_URL)
    if len(branch) > 200 or branch.startswith("-") or ".." in branch or _has_control(branch) or " " in branch:
        raise Invalid(NO_BRANCH)
    steps = path.split("/")
    if len(path) > MAX_URL or path.startswith("/") or ".." in steps or "\\" in path or _has_control(path):
        raise Invalid(NO_PATH)


def _has_control(text: str) -> bool:
    return any(ord(letter) < 32 or ord(letter) == 127 for letter in text)
