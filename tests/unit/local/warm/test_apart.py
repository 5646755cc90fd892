"""Nothing of one student is in another's process, though both are forks of the same."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

import psutil
import pytest

from labspawner.testing.processes import lives
from labspawner.testing.waiting import eventually

from .conftest import SLEEP, Bench


def memory_contains(pid: int, needle: bytes) -> bool:
    """Whether any page of a process that can be read holds these bytes."""
    with open(f"/proc/{pid}/mem", "rb", 0) as memory, open(f"/proc/{pid}/maps") as maps:
        for line in maps:
            span, mode = line.split()[:2]
            if not mode.startswith("r") or line.rstrip().endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            memory.seek(start)
            try:
                if needle in memory.read(end - start):
                    return True
            except OSError:
                continue
    return False


def reads_memory(pid: int) -> bool:
    try:
        return memory_contains(pid, b"PATH")
    except PermissionError:
        return False


@pytest.mark.parametrize("warm", [True, False])
async def test_no_secret_of_one_is_in_memory_environment_or_files_of_another(bench: Bench, warm: bool) -> None:
    secret = secrets.token_hex(20)
    first = await bench.sleeper(environment={"JUPYTERHUB_API_TOKEN": secret}, title="first", warm=warm)
    second = await bench.sleeper(environment={"JUPYTERHUB_API_TOKEN": "another"}, title="second", warm=warm)
    if not reads_memory(second.server_pid):
        pytest.skip("the memory of other processes may not be read here")

    assert memory_contains(first.server_pid, secret.encode())
    others = [second.server_pid, second.keeper[0], psutil.Process(second.keeper[0]).ppid()]
    for pid in others:
        assert not memory_contains(pid, secret.encode()), psutil.Process(pid).cmdline()
        assert secret not in str(psutil.Process(pid).environ())
    if warm:  # what is executed has its real environment, for its own user to see
        for pid in (first.server_pid, first.keeper[0]):
            assert secret not in str(psutil.Process(pid).environ())
    for pid in others[:2]:  # what is open is what it was given: nothing of the zygote's, nothing of the other's
        files = {os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
        assert {file for file in files if file.startswith("/")} <= {"/dev/null", str(bench.home / "log")}


async def test_forks_draw_different_random_numbers(bench: Bench) -> None:
    script = (
        "import random, secrets, uuid, tempfile\n"
        "answer = [random.random(), secrets.token_hex(8), uuid.uuid4().hex, uuid.uuid1().hex, tempfile.mktemp()]\n"
    )
    one, two = await bench.answer(script), await bench.answer(script)

    assert len(one) == len(two)
    assert not set(one) & set(two)


async def test_the_global_generator_of_numpy_is_seeded_for_each_server(bench: Bench) -> None:
    numpy = bench.site / "numpy"  # a stand-in: its interface is what matters here
    numpy.mkdir()
    (numpy / "__init__.py").write_text("from numpy import random")
    (numpy / "random.py").write_text(
        "import random as r\n_own = r.Random(1)\ndef seed(): _own.seed()\ndef random(): return _own.random()"
    )
    (bench.site / "jupyterhub" / "__init__.py").write_text("import numpy")
    await bench.zygotes.close()
    bench.zygotes = type(bench.zygotes)({"PATH": os.environ["PATH"], "PYTHONPATH": str(bench.site)})
    script = "import numpy; answer = numpy.random.random()"

    assert await bench.answer(script) != await bench.answer(script)


async def test_the_interpreter_is_as_one_that_was_just_started(bench: Bench) -> None:
    script = (
        "import os, sys, time, tempfile, site, signal, threading, gc\n"
        "answer = {'environment': {k: v for k, v in os.environ.items() if k != 'SCRIPT'}, 'argv': sys.argv,\n"
        " 'first': sys.path[0], 'zone': time.tzname[0], 'tmp': tempfile.gettempdir(),\n"
        " 'mask': len(signal.pthread_sigmask(0, [])),\n"
        " 'term': signal.getsignal(15) == signal.SIG_DFL, 'int': signal.getsignal(2) is signal.default_int_handler,\n"
        " 'main': sorted(k for k in vars(sys.modules['__main__']) if not k.startswith('__')), 'gc': gc.isenabled(),\n"
        " 'child': os.popen('echo $ONLY$LABSPAWNER_ROOM').read(), 'home': os.path.expanduser('~'),\n"
        " 'threads': threading.active_count(), 'sid': os.getsid(0) == os.getpid(),\n"
        " 'folders': [p for p in sys.path if 'labspawner/providers' in p]}\n"
    )
    tmp = bench.home / "tmp"
    tmp.mkdir()

    answer = await bench.answer(script, environment={"TZ": "Asia/Shanghai", "TMPDIR": str(tmp), "ONLY": "mine"})

    assert answer.pop("environment") == {
        "PATH": os.environ["PATH"],
        "HOME": str(bench.home),
        "PYTHONPATH": str(bench.site),
        "LABSPAWNER_LEASE_ID": "lease-1",
        "TZ": "Asia/Shanghai",
        "TMPDIR": str(tmp),
        "ONLY": "mine",
    }
    assert answer.pop("argv")[1:] == ["--flag"]
    assert answer == {
        "first": str(bench.site),
        "zone": "CST",
        "tmp": str(tmp),
        "mask": 0,
        "term": True,
        "int": True,
        "main": [],
        "gc": True,
        "child": "mine\n",
        "home": str(bench.home),
        "threads": 1,
        "sid": True,
        "folders": [],
    }


async def test_what_modules_made_of_the_zygotes_home_is_of_the_students(bench: Bench) -> None:
    (bench.site / "jupyterhub" / "__init__.py").write_text(
        "import os\n"
        "from traitlets import HasTraits, Unicode\n"
        "HOME = os.path.expanduser('~')\n"
        "TRASH = os.fsencode(HOME) + b'/Trash'\n"
        "FOLDERS = {'settings': HOME + '/settings', 'other': HOME + '-of-another'}\n"
        "class App(HasTraits):\n"
        "    settings = Unicode(FOLDERS['settings'], config=True)\n"
    )
    await bench.zygotes.close()
    bench.zygotes = type(bench.zygotes)({"PATH": os.environ["PATH"], "PYTHONPATH": str(bench.site)})
    script = (
        "import jupyterhub as j\n"
        "class Later(j.App): pass\n"
        "answer = [j.HOME, j.TRASH.decode(), j.FOLDERS, j.App().settings, Later().settings, j.App.settings.default_value]"
    )

    home, trash, folders, one, two, three = await bench.answer(script)

    assert (home, trash) == (str(bench.home), f"{bench.home}/Trash")
    assert folders["settings"] == one == two == three == f"{bench.home}/settings"
    assert folders["other"].endswith("-of-another")
    assert not folders["other"].startswith(str(bench.home))


async def test_packages_of_the_students_home_are_used_where_the_interpreter_uses_them(
    bench: Bench, tmp_path: Path
) -> None:
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    own = bench.home / ".local" / "lib" / version / "site-packages"
    own.mkdir(parents=True)
    script = "import sys, site; answer = [site.ENABLE_USER_SITE, site.getusersitepackages(), sys.path]"

    enabled, folder, path = await bench.answer(script)
    fresh = await bench.answer(
        "import subprocess, sys, json\n"
        "code = 'import site, sys, json; print(json.dumps([site.ENABLE_USER_SITE, site.getusersitepackages(), sys.path]))'\n"
        "answer = json.loads(subprocess.check_output([sys.executable, '-c', code]))",
    )

    assert (enabled, folder) == (fresh[0], fresh[1]) == (enabled, str(own))
    assert sorted(path) == sorted(entry for entry in fresh[2] if entry)


async def test_what_a_server_starts_carries_the_marks(bench: Bench) -> None:
    marks = {"LABSPAWNER_LEASE_ID": "l9"}
    script = "import subprocess; subprocess.Popen(['sleep', '600']); " + SLEEP
    started = await bench.start(script, environment=marks, marks=marks)
    await eventually((bench.home / "up").exists)

    (child,) = psutil.Process(started.server_pid).children()

    assert child.environ()["LABSPAWNER_LEASE_ID"] == "l9"
    child.kill()
    await eventually(lambda: not lives(child))
