"""The loop around passes, and the culler as a process of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import ssl
import sys
from datetime import datetime, timedelta, timezone

import pytest
from builders import NOW
from certipy import Certipy
from traitlets import TraitError
from traitlets.config import Application

from labspawner import culler
from labspawner.culler.app import Culler, internal_ssl
from labspawner.culler.passes import Passes
from labspawner.culler.sweep import Rules, Summary
from labspawner.culling import CullPolicy
from labspawner.errors import StoreUnavailable
from labspawner.sentences import plain

TOKEN = "f00dface-token-of-the-culler"
LOG = logging.getLogger("culler")


class Script:
    """A sweep that does what the test wrote: return, raise, or wait for an event."""

    def __init__(self, *steps):
        self.steps = list(steps)
        self.ran = 0
        self.running = 0
        self.most = 0
        self.closed = False

    def close(self):
        self.closed = True

    async def run(self):
        self.ran += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            step = self.steps.pop(0) if self.steps else Summary()
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, asyncio.Event):
                await step.wait()
                return Summary()
            await asyncio.sleep(0)
            return step
        finally:
            self.running -= 1


async def ready():
    pass


def a_loop(script, prepare=ready, **changes):
    return Passes(script, prepare, log=LOG, **{"interval_s": 0.001, **changes})


async def test_passes_follow_one_another_and_never_overlap(eventually):
    script, stop = Script(), asyncio.Event()
    running = asyncio.create_task(a_loop(script).run(stop))

    await eventually(lambda: script.ran > 5)
    stop.set()

    assert await running == 0
    assert script.most == 1


async def test_an_exception_does_not_end_the_service_and_is_logged_once_with_its_end(eventually, caplog):
    caplog.set_level(logging.INFO)
    script, stop = Script(KeyError("x"), KeyError("x"), KeyError("x"), Summary(seen=3, culled=1)), asyncio.Event()
    running = asyncio.create_task(a_loop(script).run(stop))

    await eventually(lambda: script.ran > 5)
    stop.set()
    await running

    assert [r.levelname for r in caplog.records] == ["WARNING", "INFO", "INFO"]
    assert caplog.records[0].exc_info
    assert "KeyError('x')" in caplog.records[0].message
    assert caplog.records[1].message == "passes are made again"
    assert caplog.records[2].message == "pass made seen=3 culled=1 not_applied=0"


async def test_a_database_that_comes_up_late_is_prepared_then(eventually, caplog):
    attempts = []

    async def prepare():
        attempts.append(1)
        if len(attempts) < 3:
            raise StoreUnavailable(plain("later"))

    script, stop = Script(), asyncio.Event()
    running = asyncio.create_task(a_loop(script, prepare).run(stop))

    await eventually(lambda: script.ran > 2)
    stop.set()
    await running

    assert len(attempts) == 3
    assert len(caplog.records) == 1
    assert not caplog.records[0].exc_info


async def test_told_to_stop_a_pass_ends_what_it_has_begun(eventually):
    hold, stop = asyncio.Event(), asyncio.Event()
    script = Script(hold)
    running = asyncio.create_task(a_loop(script).run(stop))
    await eventually(lambda: script.running == 1)

    stop.set()
    await eventually(lambda: script.closed)
    hold.set()

    assert await running == 0
    assert script.ran == 1


async def test_told_to_stop_a_pass_that_does_not_end_is_cancelled(eventually):
    script, stop = Script(asyncio.Event()), asyncio.Event()
    running = asyncio.create_task(a_loop(script, grace_s=0.01).run(stop))
    await eventually(lambda: script.running == 1)

    stop.set()

    assert await running == 0
    assert script.running == 0


@pytest.mark.parametrize(("step", "status"), [(Summary(), 0), (StoreUnavailable(plain("x")), 1), (ValueError("x"), 1)])
async def test_one_pass_says_in_its_status_whether_it_was_made(step, status):
    script = Script(step)

    assert await a_loop(script).run(asyncio.Event(), once=True) == status
    assert script.ran == 1


# --- the process


@pytest.fixture
def at_now(hub):
    """The processes have the real clock: an idle server is idle since real minutes."""

    def has(user, *, idle_min):
        shift = datetime.now(timezone.utc) - NOW
        hub.has(user, idle_min=idle_min - shift / timedelta(minutes=1), up_min=600 - shift / timedelta(minutes=1))

    return has


@pytest.fixture
async def process(hub, tmp_path):
    """Start `python -m labspawner.culler` as the hub does, from the dict that `service` gives; killed at the end."""
    started = []

    async def start(*extra, **changes):
        entry = culler.service(store_url=f"sqlite:///{tmp_path}/leases.sqlite", hub_id="test-hub", **changes)
        environment = {
            **os.environ,
            "JUPYTERHUB_API_URL": hub.api_url,
            "JUPYTERHUB_API_TOKEN": TOKEN,
            **entry["environment"],
        }
        child = await asyncio.create_subprocess_exec(
            *entry["command"],
            *extra,
            env=environment,
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        started.append(child)
        return child

    yield start
    for child in started:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def test_the_process_culls_and_exits(hub, store, lease, process, at_now):
    at_now("student1", idle_min=30)
    at_now("student2", idle_min=3)
    for user in ("student1", "student2"):
        await lease(user, cull={"after_s": 1200})

    child = await process("--once")
    output, _ = await asyncio.wait_for(child.communicate(), 120)

    assert child.returncode == 0, output
    assert hub.deletes == ["/users/student1/server"]
    assert b"culled user='student1'" in output
    assert TOKEN.encode() not in output


async def test_the_process_makes_its_tables_and_keeps_what_has_no_lease(hub, process, at_now):
    at_now("student1", idle_min=9999)

    child = await process("--once")
    output, _ = await asyncio.wait_for(child.communicate(), 120)

    assert (child.returncode, output) == (0, b"")
    assert hub.deletes == []


async def test_a_dry_run_of_the_process_stops_nothing(hub, process, at_now):
    at_now("student1", idle_min=90)

    child = await process("--once", dry_run=True, default_after_s=3600)
    output, _ = await asyncio.wait_for(child.communicate(), 120)

    assert child.returncode == 0
    assert b"would cull user='student1' server='' lease=- reason=idle for 1 h 3" in output
    assert hub.deletes == []


async def test_the_process_says_in_its_status_that_the_hub_did_not_answer(hub, process):
    await hub.close()

    child = await process("--once")
    output, _ = await asyncio.wait_for(child.communicate(), 120)

    assert child.returncode == 1
    assert b"refused" in output
    assert b"Traceback" not in output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_process_ends_cleanly_when_told_to(hub, process, number, eventually):
    child = await process(interval_s=3600)
    await eventually(lambda: ("GET", "/users") in hub.requests, 30)

    child.send_signal(number)
    output, _ = await asyncio.wait_for(child.communicate(), 120)

    assert child.returncode == 0
    assert b"Traceback" not in output


async def test_told_to_stop_in_the_middle_of_a_stop_the_process_sees_it_through(
    hub, store, lease, process, at_now, eventually
):
    at_now("student1", idle_min=30)
    await lease(cull={"after_s": 1200})
    release = asyncio.Event()

    async def wait(method, path):
        if method == "DELETE":
            await release.wait()

    hub.misbehave = wait
    child = await process()
    await eventually(lambda: hub.in_flight == 1, 30)
    child.send_signal(signal.SIGTERM)
    assert b"told to stop" in await asyncio.wait_for(child.stdout.readline(), 120)
    release.set()
    output, _ = await asyncio.wait_for(child.communicate(), 120)

    assert child.returncode == 0, output
    assert [d.applied for d in await store.decisions(hub_id="test-hub")] == [True]


# --- settings


@pytest.fixture
def app(monkeypatch):
    for name in ("JUPYTERHUB_API_URL", "JUPYTERHUB_API_TOKEN", "LABSPAWNER_STORE_URL", "LABSPAWNER_HUB_ID"):
        monkeypatch.delenv(name, raising=False)
    return Culler()


def test_without_its_settings_it_says_which_are_missing(app, caplog, monkeypatch):
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", TOKEN)
    messages = []
    monkeypatch.setattr(app.log, "error", messages.append)

    with pytest.raises(SystemExit) as exited:
        app.start()

    assert exited.value.code == 2
    [message] = messages
    assert message.startswith(
        "not set: JUPYTERHUB_API_URL, --store-url or LABSPAWNER_STORE_URL, --hub-id or LABSPAWNER_HUB_ID."
    )


@pytest.mark.parametrize("trait", ["interval_s", "concurrency", "request_timeout_s"])
def test_settings_that_must_be_above_zero_are_refused_otherwise(app, trait):
    with pytest.raises(TraitError, match=f"{trait} must be above 0"):
        setattr(app, trait, 0)


@pytest.mark.parametrize("trait", ["stuck_after_s", "default_after_s", "default_max_age_s"])
def test_negative_limits_are_refused(app, trait):
    with pytest.raises(TraitError, match=f"{trait} must be 0"):
        setattr(app, trait, -1.0)


def test_zero_means_no_limit(app):
    app.stuck_after_s = app.default_after_s = app.default_max_age_s = 0

    assert app.rules() == Rules(hub_id="", stuck_after_s=None, default=None)


def test_what_service_writes_is_what_the_process_reads(app):
    entry = culler.service(
        store_url="sqlite:////x",
        hub_id="campus --dry-run",
        interval_s=7,
        stuck_after_s=0,
        default_after_s=3600,
        default_max_age_s=86400.5,
        concurrency=3,
        dry_run=True,
    )

    assert entry["command"][:3] == [sys.executable, "-m", "labspawner.culler"]
    app.initialize(entry["command"][3:])

    assert app.interval_s == 7
    assert app.rules() == Rules(
        hub_id="campus --dry-run",
        concurrency=3,
        dry_run=True,
        stuck_after_s=None,
        default=CullPolicy(after_s=3600, max_age_s=86400.5),
    )


def test_a_password_in_the_store_url_is_not_on_the_command_line():
    entry = culler.service(store_url="postgresql://lab:s3cret@db/lab", hub_id="campus")

    assert "s3cret" not in " ".join(entry["command"])
    assert "s3cret" in entry["environment"]["LABSPAWNER_STORE_URL"]


def test_the_role_names_the_service_and_exactly_the_scopes():
    assert culler.role(name="c") == {
        "name": "c",
        "services": ["c"],
        "scopes": ["list:users", "read:servers", "delete:servers"],
    }
    assert culler.service(store_url="x", hub_id="y", name="c")["name"] == "c"


def test_a_configuration_file_is_read_and_the_command_line_wins(app, tmp_path):
    file = tmp_path / "culler.py"
    file.write_text("c.Culler.interval_s = 5.0\nc.Culler.concurrency = 4\n")

    app.initialize([f"--config={file}", "--concurrency=2"])

    assert (app.interval_s, app.concurrency) == (5, 2)


def test_the_environment_names_store_and_hub(monkeypatch):
    monkeypatch.setenv("LABSPAWNER_STORE_URL", "sqlite:////y")
    monkeypatch.setenv("LABSPAWNER_HUB_ID", "campus")

    assert (Culler().store_url, Culler().hub_id) == ("sqlite:////y", "campus")


def test_every_setting_says_its_unit_or_an_example():
    own = set(Culler.class_own_traits(config=True)) - set(Application.class_traits())

    assert len(own) == 11
    assert all(len(Culler.class_traits()[name].help) > 40 for name in own)


def test_without_internal_ssl_there_is_no_context(monkeypatch):
    monkeypatch.delenv("JUPYTERHUB_SSL_KEYFILE", raising=False)

    assert internal_ssl() is None


def test_with_internal_ssl_the_hub_is_checked_against_its_own_authority_only(monkeypatch, tmp_path):
    authority = Certipy(store_dir=str(tmp_path))
    authority.create_ca("hub-ca")
    files = authority.create_signed_pair("culler", "hub-ca")["files"]
    monkeypatch.setenv("JUPYTERHUB_SSL_KEYFILE", files["key"])
    monkeypatch.setenv("JUPYTERHUB_SSL_CERTFILE", files["cert"])
    monkeypatch.setenv("JUPYTERHUB_SSL_CLIENT_CA", files["ca"])

    context = internal_ssl()

    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1
