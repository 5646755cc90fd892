"""labspawner-guest as it runs in a VM, with a folder for its machine and no systemd."""

from __future__ import annotations

import json
import os
import random
import secrets
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from labspawner.guest import labspawner_guest
from labspawner.testing import tinyserver
from labspawner.testing.kube import sitter
from labspawner.testing.waiting import eventually_sync


def a_port(address):
    """One that nobody listens on at an address of the test's own."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


class Vm:
    """A machine: a folder that stands for `/`."""

    def __init__(self, root):
        self.root, self.mark = root, secrets.token_hex(8)
        self.token = secrets.token_hex(16)  # of nobody else: a test looks at all processes of this machine
        self.address = f"127.{random.randint(200, 239)}.{random.randint(0, 255)}.{random.randint(1, 254)}"
        self.port = a_port(self.address)
        (root / "home/alice").mkdir(parents=True)

    def request(self, *command, **changes):
        environment = {
            "JUPYTERHUB_API_TOKEN": self.token,
            "JUPYTERHUB_USER": "alice",
            "JUPYTERHUB_SERVICE_URL": f"http://{self.address}:{self.port}/user/alice/",
        }
        found = {"protocol": 1, "user": "alice", "home": "/home/alice", "lease": "lease-1"}
        words = list(command or tinyserver.command())
        return {**found, "command": words, "environment": environment | changes.pop("variables", {}), **changes}

    def run(self, *words, stdin=b"", **variables):
        environment = {
            "PATH": os.environ["PATH"],
            "LABSPAWNER_GUEST_ROOT": str(self.root),
            "LABSPAWNER_GUEST_INIT": "process",
            sitter.MARK: self.mark,
            **variables,
        }
        command = [sys.executable, "-I", "-S", labspawner_guest.__file__, *words]
        return subprocess.run(
            command, input=stdin, capture_output=True, env=environment, timeout=300, check=False, cwd=self.root
        )

    def say(self, *words, request=None, **variables):
        """The one line of JSON that a verb prints."""
        done = self.run(*words, stdin=b"" if request is None else json.dumps(request).encode(), **variables)
        assert done.stderr == b""
        (line,) = done.stdout.decode().splitlines()
        answer = json.loads(line)
        assert answer["protocol"] == 1
        assert (done.returncode == 0) is answer["ok"]
        return answer

    def listening(self):
        return eventually_sync(lambda: self.say("status")["server"]["listening"], 60, "the server listens")

    def close(self):
        """End what has our mark, then the servers, whose environment is the request's: they are told by their token."""
        assert sitter.end(self.mark) == []
        assert sitter.end(self.token, name="JUPYTERHUB_API_TOKEN") == []


@pytest.fixture
def vm(tmp_path):
    made = Vm(tmp_path / "root")
    yield made
    made.close()


class Hub:
    """What call-home asks: answers as it is told to, once for each entry of `answers`, the last one for ever."""

    def __init__(self):
        self.answers, self.heard = [(200, {}, b"")], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.heard.append((self.path, json.loads(body)))
                status, headers, answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(answer))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args):
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hub/labspawner/guest"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def hub():
    made = Hub()
    yield made
    made.close()


@pytest.fixture
def source():
    return Path(labspawner_guest.__file__).read_text(encoding="utf-8")
