"""Starts and ends through a zygote."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from labspawner.errors import ProviderUnavailable, SetupError
from labspawner.providers.local.warm import Zygotes, child, zygotes
from labspawner.providers.local.warm.child import _popen
from labspawner.providers.processes import walk
from labspawner.testing.processes import alive
from labspawner.testing.waiting import eventually

from .conftest import MARK, SLEEP, Bench, kill


async def test_the_single_user_server_of_the_hubs_interpreter_is_a_fork(bench: Bench) -> None:
    started = await bench.start(SLEEP)

    assert started.warm
    assert started.exit_status() is None
    assert psutil.Process(started.server_pid).ppid() == started.keeper[0]
    assert psutil.Process(started.keeper[0]).ppid() == bench.zygotes.zygotes[sys.executable]


async def test_any_other_command_is_executed(bench: Bench) -> None:
    started = await bench.start("", argv=("sh", "-c", "echo $HOME; pwd; exit 3"))

    assert not started.warm
    assert await bench.end_of(started) == 3
    assert bench.log().split() == [str(bench.home), str(bench.home)]


@pytest.mark.parametrize(
    "environment", [{"PYTHONOPTIMIZE": "1"}, {"PYTHONPATH": "/elsewhere"}, {"LC_ALL": "de_DE.ISO-8859-1"}]
)
async def test_what_an_interpreter_reads_only_when_it_starts_makes_it_start(
    bench: Bench, environment: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    started = [await bench.start("", environment=environment) for _ in range(2)]

    assert not any(server.warm for server in started)
    assert len([record for record in caplog.records if "start slowly" in record.getMessage()]) == 1


async def test_an_order_may_refuse_to_be_a_fork(bench: Bench) -> None:
    assert not (await bench.start("", warm=False)).warm


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("", 0),
        ("raise SystemExit(7)", 7),
        ("raise SystemExit('in words')", 1),
        ("1 / 0", 1),
        ("import os; os.kill(os.getpid(), 11)", -11),
        ("import atexit; atexit.register(print, 'goodbye'); raise SystemExit(None)", 0),
    ],
)
async def test_the_exit_status_is_the_servers(bench: Bench, script: str, status: int) -> None:
    started = await bench.start(script)

    assert await bench.end_of(started) == status
    assert started.exit_status() == status
    for words in ("in words", "ZeroDivisionError", "goodbye"):
        assert (words in bench.log()) == (words in script or (words == "ZeroDivisionError" and "/ 0" in script))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_to_the_keeper_reaches_the_server(bench: Bench, number: signal.Signals) -> None:
    script = f"import signal, sys; signal.signal({int(number)}, lambda *_: sys.exit(9)); " + SLEEP
    started = await bench.start(script)
    await eventually((bench.home / "up").exists)

    kill(started.keeper[0], number)

    assert await bench.end_of(started) == 9


async def test_without_a_sandbox_a_killed_keeper_takes_its_server_along(bench: Bench) -> None:
    started = await bench.sleeper()

    kill(started.keeper[0])

    await eventually(lambda: not alive(started.server_pid))
    assert await bench.end_of(started) == -signal.SIGKILL


async def test_a_killed_zygote_leaves_servers_alone_and_is_replaced(bench: Bench) -> None:
    first = await bench.sleeper()
    zygote = bench.zygotes.zygotes[sys.executable]

    kill(zygote)
    await eventually(lambda: not alive(zygote))
    second = await bench.start(SLEEP)

    assert second.warm
    assert bench.zygotes.zygotes[sys.executable] != zygote
    assert first.exit_status() is None
    assert alive(first.server_pid)
    kill(first.keeper[0], signal.SIGTERM)
    assert await bench.end_of(first) == -signal.SIGTERM


async def test_when_the_hub_is_gone_zygotes_end_and_servers_do_not(bench: Bench) -> None:
    started = await bench.sleeper()
    zygotes = list(bench.zygotes.zygotes.values())

    await bench.zygotes.close()
    await bench.zygotes.close()

    assert not any(alive(pid) for pid in zygotes)
    assert alive(started.keeper[0])
    assert alive(started.server_pid)


async def test_nothing_is_left_of_ended_servers_not_even_a_zombie(bench: Bench) -> None:
    for _ in range(3):
        await bench.run("")

    (zygote,) = bench.zygotes.zygotes.values()
    await eventually(lambda: psutil.Process(zygote).children() == [])


async def test_a_cancelled_start_leaves_nothing_at_whatever_turn(bench: Bench) -> None:
    await bench.zygotes.ready()
    for turns in range(12):
        order = bench.order(SLEEP)
        task = asyncio.ensure_future(bench.zygotes.start(order))
        for _ in range(turns):
            await asyncio.sleep(0.002)
        task.cancel()
        try:
            bench.started.append(await task)
            kill(bench.started[-1].keeper[0])
        except asyncio.CancelledError:
            (zygote,) = bench.zygotes.zygotes.values()
            await eventually(lambda pid=zygote: psutil.Process(pid).children() == [])
        finally:
            os.close(order.output_fd)


async def test_the_process_walk_finds_server_and_keeper_by_their_marks(bench: Bench) -> None:
    marks = {MARK: "l7", "LABSPAWNER_HUB_ID": "h7", "LABSPAWNER_PROVIDER": "local", "LABSPAWNER_USER": "ann"}
    started = await bench.sleeper(environment={**marks, "SECRET": "s3cret"}, marks=marks)

    found = (await asyncio.to_thread(walk)).of_lease("l7", "h7")  # type: ignore[arg-type]

    assert {process.pid for process in found} == {started.keeper[0], started.server_pid}
    for process in found:
        assert psutil.Process(process.pid).environ() == marks


async def test_ps_shows_which_process_is_what(bench: Bench) -> None:
    started = await bench.sleeper(title="ann/lab")

    assert psutil.Process(started.keeper[0]).cmdline() == ["labspawner-keeper", "ann/lab"]
    assert psutil.Process(started.server_pid).cmdline()[1:] == ["-m", "jupyterhub.singleuser", "--flag"]
    assert psutil.Process(bench.zygotes.zygotes[sys.executable]).name() == "lab-zygote"


async def test_a_command_that_is_not_there_is_said_as_the_system_says_it(bench: Bench) -> None:
    with pytest.raises(FileNotFoundError):
        await bench.start("", argv=("no-such-command",))
    with pytest.raises(PermissionError):
        await bench.start("", argv=("/etc/passwd",))
    with pytest.raises(FileNotFoundError):
        await bench.start("", cwd="/no/such/folder")


async def test_a_limit_that_does_not_exist_fails_the_start(bench: Bench) -> None:
    with pytest.raises(OSError, match="no such limit") as caught:
        await bench.start("", rlimits={"RLIMIT_NONSENSE": (1, 1)})
    assert caught.value.errno == errno.EINVAL


async def test_limits_umask_and_groups_are_the_orders(bench: Bench, tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"

    answer = await bench.answer(
        "import os, resource, signal\n"
        "answer = [resource.getrlimit(resource.RLIMIT_NOFILE), os.umask(0), os.getpriority(0, 0), os.getcwd(),\n"
        "          open('/proc/self/oom_score_adj').read().strip(), sorted(os.listdir('/proc/self/fd'))]",
        rlimits={"RLIMIT_NOFILE": (512, 1024)},
        umask=0o077,
        nice=3,
        oom_score_adj=200,
        inside_files=(str(inside),),
        outside_files=(str(outside),),
    )

    nicer = min(19, os.getpriority(os.PRIO_PROCESS, 0) + 3)
    assert answer == [[512, 1024], 0o077, nicer, str(bench.home), "200", ["0", "1", "2", "3"]]
    assert (inside.read_text(), outside.read_text()) == ("0", "0")


async def test_a_group_that_cannot_be_joined_fails_the_start(bench: Bench) -> None:
    for files in ({"inside_files": ("/no/such/group",)}, {"outside_files": ("/no/such/group",)}):
        with pytest.raises(FileNotFoundError):
            await bench.start("", **files)


async def test_a_sandbox_that_cannot_be_made_says_why(bench: Bench, tmp_path: Path) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho the kernel says no >&2\nexit 1\n")
    broken.chmod(0o755)

    with pytest.raises(SetupError, match="the kernel says no"):
        await bench.start("", sandbox=(str(broken),))
    with pytest.raises(FileNotFoundError):
        await bench.start("", sandbox=("/no/such/bwrap",))


async def test_an_interpreter_that_cannot_be_a_zygote_is_said_once_and_started_each_time(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    (bench.site / "jupyterhub" / "singleuser.py").write_text("raise RuntimeError('broken')")
    await bench.zygotes.close()
    bench.zygotes = Zygotes({"PATH": os.environ["PATH"], "PYTHONPATH": str(bench.site)}, wait_s=300.0)

    statuses = [await bench.run("") for _ in range(2)]

    assert statuses == [1, 1]
    assert "RuntimeError: broken" in str(await bench.zygotes.ready())
    assert len([record for record in caplog.records if "start slowly" in record.getMessage()]) == 1


async def test_threads_after_the_import_make_an_interpreter_no_zygote(bench: Bench) -> None:
    text = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    (bench.site / "jupyterhub" / "__init__.py").write_text(text)
    await bench.zygotes.close()
    bench.zygotes = Zygotes({"PATH": os.environ["PATH"], "PYTHONPATH": str(bench.site)}, wait_s=300.0)

    assert "1 thread(s)" in str(await bench.zygotes.ready())


async def test_a_changed_environment_has_a_new_zygote(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.zygotes.ready()
    before = bench.zygotes.zygotes[sys.executable]
    (bench.site / "jupyterhub" / "singleuser.py").write_text("def main(): raise SystemExit(42)")
    (bench.site / "new_package").mkdir()

    async def status() -> bool:
        return await bench.run("") == 42

    await eventually(status, 15.0)
    assert bench.zygotes.zygotes[sys.executable] != before


async def test_a_foreign_interpreter_has_its_own_zygote_until_it_is_idle(bench: Bench, tmp_path: Path) -> None:
    await bench.zygotes.close()
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(bench.site)}
    bench.zygotes = Zygotes(environment, wait_s=300.0, idle_s=2.0)
    await bench.zygotes.open()
    folder = tmp_path / "env" / "bin"
    folder.mkdir(parents=True)
    foreign = folder / "python3"
    foreign.symlink_to(os.path.realpath(sys.executable))

    started = await bench.start(SLEEP, argv=(str(foreign), "-m", "jupyterhub.singleuser"))

    if os.geteuid() != 0:
        assert started.warm
    await eventually(lambda: str(foreign) not in bench.zygotes.zygotes)
    assert alive(started.server_pid)


async def test_a_server_that_runs_no_zygote_program_is_unavailable(bench: Bench, monkeypatch: Any) -> None:
    await bench.zygotes.close()
    without = Zygotes({"PATH": os.environ["PATH"]})
    monkeypatch.setattr(without._cold, "interpreter", "/no/such/python")
    order = bench.order("", argv=("true",))

    with pytest.raises(ProviderUnavailable):
        await without.start(order)
    os.close(order.output_fd)
    await without.close()


@dataclass
class Making:
    """Each try to make a zygote, and whether it was a warm one. fails: raised instead, for the kind that `warm` says."""

    warm: bool
    fails: Exception | None = None
    tries: list[bool] = field(default_factory=list)

    def __call__(self, interpreter: str, settings: Any, environment: Any, control: int, warm: bool) -> Any:
        self.tries.append(warm)
        if self.fails is not None and warm == self.warm:
            raise self.fails
        return _popen(interpreter, settings, environment, control, warm)


FAILURES = [OSError(errno.EAGAIN, "no room for a process"), RuntimeError("can't start new thread")]


@pytest.mark.parametrize("failure", FAILURES, ids=["refused by the system", "an accident in the hub"])
async def test_an_interpreter_whose_zygote_failed_once_has_one_later_and_not_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    await bench.zygotes.close()
    bench.zygotes = Zygotes({"PATH": os.environ["PATH"], "PYTHONPATH": str(bench.site)}, wait_s=300.0)
    making = Making(warm=True, fails=failure)
    monkeypatch.setattr(child, "_popen", making)
    monkeypatch.setattr(zygotes, "AGAIN_S", 3600.0)
    before = [(await bench.start(SLEEP)).warm for _ in range(2)]
    tried, making.fails = making.tries.count(True), None
    still = (await bench.start(SLEEP)).warm

    monkeypatch.setattr(zygotes, "AGAIN_S", 0.0)
    after = (await bench.start(SLEEP)).warm

    assert (before, still, after) == ([False, False], False, True)
    assert (tried, making.tries.count(True)) == (1, 2)


@pytest.mark.parametrize("failure", FAILURES, ids=["refused by the system", "an accident in the hub"])
async def test_the_program_that_starts_servers_failed_once_and_starts_them_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    await bench.zygotes.close()
    bench.zygotes = Zygotes({"PATH": os.environ["PATH"], "PYTHONPATH": str(bench.site)}, wait_s=300.0)
    making = Making(warm=False, fails=failure)
    monkeypatch.setattr(child, "_popen", making)
    monkeypatch.setattr(zygotes, "COLD_AGAIN_S", 3600.0)
    for _ in range(2):
        with pytest.raises(ProviderUnavailable):
            await bench.start("", argv=("true",))
    tried, making.fails = len(making.tries), None

    monkeypatch.setattr(zygotes, "COLD_AGAIN_S", 0.0)
    started = await bench.start("", argv=("true",))

    assert await bench.end_of(started) == 0
    assert (tried, len(making.tries)) == (1, 2)


async def test_what_an_interpreter_said_itself_holds_until_its_environment_changes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bench.site / "jupyterhub" / "singleuser.py").write_text("raise RuntimeError('broken')")
    await bench.zygotes.close()
    bench.zygotes = Zygotes({"PATH": os.environ["PATH"], "PYTHONPATH": str(bench.site)}, wait_s=300.0)
    making = Making(warm=True)
    monkeypatch.setattr(child, "_popen", making)
    monkeypatch.setattr(zygotes, "AGAIN_S", 0.0)

    for _ in range(2):
        await bench.run("")

    assert making.tries.count(True) == 1


async def test_memory_is_told_own_and_shared(bench: Bench) -> None:
    started = await bench.sleeper()

    memory = await bench.zygotes.memory([started.server_pid, started.keeper[0], 2**22 + 1])

    assert 0 < memory.own_bytes < memory.proportional_bytes < memory.resident_bytes
