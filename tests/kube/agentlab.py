"""A node with pretended cards, a kubelet's double, and the real agent as a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from labspawner.gpu.agent.inventory import ANNOTATION, NodeInventory, parse
from labspawner.gpu.pretend import find_driver
from labspawner.testing.kubelet import Grant, KubeletDouble
from labspawner.testing.waiting import eventually_sync

GIB = 2**30
SMALL = "labspawner.io/gpu-small"
CLASSES: dict[str, Any] = {"small": {"memory": "6GiB", "cores": 25, "per_card": 3}}
WAIT_S = 30.0  # times PATIENCE: a machine under load

TAKE = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
device, context, address = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
free, total = ctypes.c_size_t(), ctypes.c_size_t()
assert cuda.cuInit(0) == 0
assert cuda.cuDeviceGet(ctypes.byref(device), 0) == 0
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
assert cuda.cuCtxSetCurrent(context) == 0
assert cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
code = cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(int(float(sys.argv[1]) * 2**30)))
print(code, total.value, flush=True)
sys.stdin.read()
"""
"""Takes so many GiB, says what the driver answered and how large the card looks, and keeps it until its stdin ends."""


AGENT = """
import logging, sys
from pathlib import Path
from labspawner.gpu.agent.node import NodeDoor
from labspawner.gpu.agent.serving import serve
from labspawner.gpu.agent.settings import BadSettings, load_settings

logging.basicConfig(level=logging.INFO)
try:
    token, ca = (Path(word) for word in sys.argv[3:5]) if sys.argv[3:] else (None, None)
    door = NodeDoor(node="labnode", url=sys.argv[2], token=token, ca=ca)
    serve(load_settings(Path(sys.argv[1])), "default", door)
except BadSettings as exc:
    sys.exit(str(exc))
"""
"""What `labspawner gpu agent` does, without the two seconds that all other commands take to be imported."""


class ApiServer(ThreadingHTTPServer):
    """Takes the node's annotation, or refuses it. status: what it answers; patches: what came, with path and token."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Patch)
        self.status, self.patches = 200, []
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def inventory(self) -> NodeInventory | None:
        """What the node said last."""
        return parse(self.patches[-1][2]["metadata"]["annotations"][ANNOTATION]) if self.patches else None

    def end(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Patch(BaseHTTPRequestHandler):
    server: ApiServer

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = self.server.status
        if status == 200:
            self.server.patches.append((self.path, self.headers.get("Authorization"), body))
        said = json.dumps({"kind": "Status", "message": "as you like"} if status != 200 else body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: Any) -> None:
        pass


class AgentLab:
    """A context manager: kubelet and agents end with it, and nothing of it is left."""

    def __init__(self, folder: Path, *, cards: str = "1x24564MiB") -> None:
        self.folder, self.cards = folder, cards
        self.state = Path(tempfile.mkdtemp(prefix="agent-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.kubelet = KubeletDouble()
        self.api = ApiServer()
        self.door: list[str] = [self.api.url]
        self.agents: list[subprocess.Popen[bytes]] = []
        self._number = 0

    def __enter__(self) -> AgentLab:
        self.kubelet.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for agent in self.agents:
            if agent.poll() is None:
                agent.kill()
            agent.wait()
        self.kubelet.__exit__(kind, error, tb)
        self.api.end()
        shutil.rmtree(self.state, ignore_errors=True)

    def start(self, *, classes: dict[str, Any] = CLASSES, **settings: Any) -> subprocess.Popen[bytes]:
        """Start an agent; what it says is in `log`."""
        self._number += 1
        config = self.folder / f"agent-{self._number}.yaml"
        found = {
            "classes": classes,
            "plugins": str(self.kubelet.plugins),
            "pod_resources": str(self.kubelet.pod_resources),
            "state": str(self.state),
            "libvgpu_dir": str(self.folder / "library"),
            "metrics": "",
            "every": "0.2s",
            "pretend": self.cards,
        }
        config.write_text(json.dumps({key: value for key, value in (found | settings).items() if value is not None}))
        command = [sys.executable, "-c", AGENT, str(config), *self.door]
        with self._log(self._number).open("wb") as log:
            agent = subprocess.Popen(command, stdout=log, stderr=log, env=_environment(), start_new_session=True)
        self.agents.append(agent)
        return agent

    def ready(self, *, count: int = 3, resource: str = SMALL, **settings: Any) -> subprocess.Popen[bytes]:
        """Start an agent, and wait until the kubelet knows its slices."""
        before = len(self.kubelet.said("Register"))
        agent = self.start(**settings)
        self.wait_for(lambda: len(self.kubelet.said("Register")) > before and self.has(count, resource))
        return agent

    def has(self, count: int, resource: str = SMALL) -> bool:
        return self.kubelet.allocatable(resource) == count

    def wait_for(self, predicate: Any, what: str = "") -> Any:
        """The first true value of `predicate`; what agents said stands in the error."""

        def looked() -> Any:
            assert all(agent.poll() is None for agent in self.agents[-1:]), self.log
            return predicate()

        try:
            return eventually_sync(looked, WAIT_S, what)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{self.log}") from exc

    def stop(self, agent: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> int:
        """End an agent with a signal; its exit status."""
        agent.send_signal(number)
        return agent.wait(300)

    def meddle(self, *words: str) -> None:
        """Do something to the pretended cards from outside: see native/stub/stubctl.c."""
        environment = {**os.environ, "STUB_CUDA_STATE": str(self.state / "pretended"), "STUB_CUDA_DEVICES": self.cards}
        subprocess.run([find_driver() / "stubctl", *words], env=environment, check=True, timeout=300)

    @property
    def log(self) -> str:
        """What the last agent said."""
        return self._log(self._number).read_text(errors="replace")

    def _log(self, number: int) -> Path:
        return self.folder / f"agent-{number}.log"

    def taker(self, grant: Grant, gib: float) -> tuple[subprocess.Popen[str], str]:
        """A process of a container that takes memory and stays; and what it said."""
        process = grant.start(
            [sys.executable, "-c", TAKE, str(gib)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        return process, process.stdout.readline().strip()


def _environment() -> dict[str, str]:
    """Ours, without what would make another node of it."""
    return {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("STUB_", "CUDA_", "NVIDIA_", "KUBERNETES_", "NODE_NAME", "LABSPAWNER_GPU"))
    }
