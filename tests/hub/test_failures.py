"""Starts that fail: the student reads what happened, the log has the rest, and the next start works."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from contextlib import closing

import pytest

from labspawner.providers.processes import environment_of
from labspawner.testing import tinyserver
from labspawner.testing.hub import server_path
from labspawner.testing.waiting import eventually_sync


def _profile(slug: str, provider: str, timeout: str = "10m", **settings: object) -> str:
    return (
        f"  - slug: {slug}\n    title: {slug}\n"
        f"    variants: [{{provider: {provider}, start_timeout: {timeout}, settings: {json.dumps(settings)}}}]\n"
    )


COURSE = "course: fails\ntitle: Failures\nprofiles:\n" + "".join(
    [
        _profile("good", "local", command=list(tinyserver.command())),
        _profile("missing", "local", command=["no-such-command-anywhere"]),
        _profile("forbidden", "local", command=["/etc/passwd"]),
        _profile("dies", "local", command=["sh", "-c", 'echo "boom $JUPYTERHUB_API_TOKEN" >&2; exit 3']),
        _profile("imports", "local", command=[sys.executable, "-c", "import no_such_package_of_mine"]),
        _profile("killed", "local", command=["sh", "-c", "kill -9 $$"]),
        _profile("silent", "local", timeout="2s", command=list(tinyserver.command(never_listen=True))),
        _profile("waits", "local", command=list(tinyserver.command(never_listen=True))),
        _profile("no-home", "no-home"),
        _profile("link-home", "link-home"),
        _profile("wrong-setting", "local", colour="blue"),
        _profile("no-provider", "kubernetes"),
        _profile("sim-crash", "sim", start_s=0.01, fail_at="boot", fail_kind="crash"),
        _profile("sim-away", "sim", start_s=0.01, fail_at="create", fail_kind="transient"),
        _profile("adapter-setting", "simple", cmd=["x"]),
        _profile("adapter-fails", "badspawner"),
        "  - slug: huge\n    title: huge\n    queue: fail\n    variants: [{provider: small, memory: 64GiB}]\n",
        "  - slug: one\n    title: one\n    queue: fail\n"
        "    variants: [{provider: small, memory: 1GiB, settings: {start_s: 0.01}}]\n",
    ]
)

SENTENCES = {
    "missing": (500, "The command no-such-command-anywhere of this profile is not installed on the server."),
    "forbidden": (500, "The command passwd of this profile may not be run on the server."),
    "dies": (500, "Your server stopped while it was starting (exit code 3)."),
    "imports": (500, "a Python package is missing or broken (No module named 'no_such_package_of_mine')"),
    "killed": (500, "Your server was killed while it was starting"),
    "silent": (500, "2 seconds"),
    "no-home": (500, "Your home is not a plain folder on the server."),
    "link-home": (500, "Your home is not a plain folder on the server."),
    "wrong-setting": (503, "colour"),
    "no-provider": (503, "This profile needs a provider that is not set up here."),
    "sim-crash": (500, "."),
    "sim-away": (503, "."),
    "adapter-setting": (503, "may not be set by a profile"),
    "adapter-fails": (500, "."),
    "huge": (400, "This profile needs 64 GiB, more than any machine here has (2 GiB)."),
}

BAD_SPAWNER = """
from jupyterhub.spawner import SimpleLocalProcessSpawner
class BadSpawner(SimpleLocalProcessSpawner):
    async def start(self):
        raise RuntimeError("internal words for nobody's eyes")
"""


@pytest.fixture(scope="module")
def failing_hub(_hubs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("places")
    (folder / "a-file").write_text("in the way of the homes")
    (folder / "linked").mkdir()
    hub = _hubs(
        courses={"fails.yaml": COURSE},
        groups={"course-fails": [f"fails-{slug}" for slug in SENTENCES]},
        providers={
            "local": {"min_free_disk": "1MiB"},
            "no-home": {"kind": "local", "homes": str(folder / "a-file")},
            "link-home": {"kind": "local", "homes": str(folder / "linked")},
            "sim": {},
            "small": {"kind": "sim", "hosts": [{"name": "one", "memory": "2GiB", "servers": 1}]},
            "simple": {"kind": "adapter", "spawner_class": "simple"},
            "badspawner": {"kind": "adapter", "spawner_class": "bad_spawner.BadSpawner"},
        },
    )
    (hub.folder / "site" / "bad_spawner.py").write_text(BAD_SPAWNER)
    (folder / "linked" / "fails-link-home").symlink_to("/etc")
    hub.start()
    return hub


def _failure(hub, user, profile, *, name=""):
    """The status and sentence of a start that fails, from the answer, or where that came too early from the stream."""
    answer = hub.ask(user, {"profile": f"fails/{profile}"}, name=name)
    if answer.status != 202:
        return answer.status, answer.message
    path = server_path(user, name)
    last = list(hub.api.events(f"{path}/progress"))[-1]
    assert last.get("failed"), last
    return None, last["message"].removeprefix("Spawn failed: ")


@pytest.mark.parametrize(("profile", "said"), SENTENCES.items(), ids=SENTENCES)
def test_a_failed_start_is_told_in_words_on_rest_and_page_and_the_next_one_works(failing_hub, profile, said):
    hub, user = failing_hub, f"fails-{profile}"

    status, message = _failure(hub, user, profile)

    allowed = said[0] if isinstance(said[0], set) else {said[0]}
    assert status is None or status in allowed, message
    assert said[1] in message, message
    assert "internal words" not in message
    assert "Traceback" not in message
    eventually_sync(lambda: not hub.leases(user), 10, "its lease has ended")
    assert hub.processes(user) == []
    page = hub.login(user).get(f"/hub/user/{user}/")
    assert page.status in {424, 500, 503, 400, 403}, page.status
    assert _plain(message)[:40] in _plain(page.text), page.text[-3000:]

    hub.start_server(user, "fails/good")
    assert hub.lease(user).profile == "fails/good"
    hub.stop_server(user)


def test_the_form_says_at_once_why_the_start_failed(failing_hub):
    hub, user = failing_hub, "fails-missing"
    browser = hub.login(user)
    browser.get(f"/hub/spawn/{user}")

    answer = browser.post_form(f"/hub/spawn/{user}", {"profile": "fails/missing"})

    assert "no-such-command-anywhere" in answer.text
    assert "Traceback" not in answer.text
    assert 'value="fails/good"' in browser.get(f"/hub/spawn/{user}").text


def test_the_last_words_of_a_server_reach_the_log_without_its_token(failing_hub):
    hub, user = failing_hub, "fails-dies"

    _failure(hub, user, "dies")

    logs = [path.read_text() for path in (hub.folder / "data" / "providers" / "local" / "logs").glob("*")]
    assert any("boom" in text for text in logs)
    assert "exit_code=3" in hub.log()
    assert not re.search(r"boom [0-9a-f]{16}", hub.log())


def test_no_token_and_no_password_is_ever_logged(failing_hub):
    hub, user = failing_hub, "fails-silent"
    hub.login(user)
    hub.start_server(user, "fails/good")
    found = [environment_of(process).get("JUPYTERHUB_API_TOKEN", "") for process in hub.processes(user)]
    tokens = [token for token in found if token]  # what stands around the server has none
    hub.stop_server(user)

    written = hub.log()

    assert tokens
    assert [token for token in tokens if len(token) < 16] == []
    for secret in (*tokens, hub.token, hub.password):
        assert secret not in written
    assert "exception was never retrieved" not in written


def test_a_full_pool_is_said_and_frees_itself(failing_hub):
    hub = failing_hub
    hub.start_server("fails-huge", "fails/one")

    status, message = _failure(hub, "fails-sim-crash", "one")
    hub.stop_server("fails-huge")

    assert status == 503
    assert message == "Everything is in use. Try again in a few minutes, or pick another profile."
    hub.start_server("fails-sim-crash", "fails/one")
    hub.stop_server("fails-sim-crash")


def test_a_server_that_dies_while_running_is_noticed_and_the_student_reads_it(failing_hub):
    hub, user = failing_hub, "fails-killed"
    hub.start_server(user, "fails/good")
    pid = hub.lease(user).handle.data["pid"]

    subprocess.run(["kill", "-9", str(pid)], check=True)

    hub.wait_gone(user, deadline_s=15)
    page = hub.login(user).get("/hub/home")
    assert "stopped by itself" in page.text
    hub.start_server(user, "fails/good")
    hub.stop_server(user)


@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount")
def test_with_a_full_home_the_server_starts_and_says_what_it_is_for(failing_hub):
    hub, user = failing_hub, "fails-huge"
    homes = hub.folder / "data" / "providers" / "local" / "homes"
    homes.mkdir(parents=True, exist_ok=True)
    home = homes / user
    home.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(home)]
    mounted = subprocess.run(command, check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.decode().strip()}")
    try:
        assert hub.ask(user, {"profile": "fails/waits"}).status == 202
        said = []
        with closing(hub.api.events(f"{server_path(user)}/progress")) as events:
            for event in events:
                said.append(event["message"])
                if "Your home is full" in said[-1]:
                    break
        hub.stop_server(user)
        hub.start_server(user, "fails/good")
        hub.stop_server(user)
    finally:
        subprocess.run(["umount", str(home)], check=True)

    assert any("Your home is full" in message for message in said), said


def _plain(html):
    """Without markup and entities, as far as a comparison needs."""
    for entity, text in (("&#39;", "'"), ("&#34;", '"'), ("&quot;", '"'), ("&amp;", "&")):
        html = html.replace(entity, text)
    return " ".join(html.split())
