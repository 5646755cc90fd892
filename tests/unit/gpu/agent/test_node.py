"""The door to the API server: one PATCH of one node, with a token that is read anew; what is refused is said."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from labspawner.gpu.agent.node import NodeDoor, NodeError

STATUS = {"kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403}
WORDS = 'nodes "labnode" is forbidden: User "system:serviceaccount:jhub:agent" cannot patch resource "nodes"'


class Api(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.answer: tuple[int, bytes] = (200, b"{}")
        self.came: list[tuple[str, dict[str, str], Any]] = []


class Answer(BaseHTTPRequestHandler):
    server: Api

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.came.append((self.path, dict(self.headers), body))
        status, content = self.server.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def api() -> Iterator[Api]:
    server = Api()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def door(api: Api, tmp_path: Path) -> NodeDoor:
    (tmp_path / "token").write_text("first\n")
    return NodeDoor(node="labnode", url=f"http://127.0.0.1:{api.server_address[1]}/", token=tmp_path / "token")


def test_only_annotations_of_the_own_node_are_changed(api: Api, door: NodeDoor):
    door.annotate({"labspawner.io/gpu-inventory": "{}", "labspawner.io/old": None})

    path, headers, body = api.came[0]
    assert path == "/api/v1/nodes/labnode"
    assert headers["Content-Type"] == "application/merge-patch+json"
    assert body == {"metadata": {"annotations": {"labspawner.io/gpu-inventory": "{}", "labspawner.io/old": None}}}


def test_a_token_that_was_exchanged_is_used_at_once(api: Api, door: NodeDoor, tmp_path: Path):
    door.annotate({})
    (tmp_path / "token").write_text("second\n")
    door.annotate({})

    assert [headers["Authorization"] for _, headers, _ in api.came] == ["Bearer first", "Bearer second"]


def test_a_refusal_is_said_in_the_servers_words_and_never_with_the_token(api: Api, door: NodeDoor):
    api.answer = (403, json.dumps({**STATUS, "message": WORDS}).encode())

    with pytest.raises(NodeError) as caught:
        door.annotate({})

    assert str(caught.value) == f"the API server says 403: {WORDS}"
    assert "first" not in str(caught.value)


@pytest.mark.parametrize("content", [b"<html>gateway</html>", b"", b"[]", b'{"message": null}', b"\xff"])
def test_an_answer_of_something_else_is_an_error_too(api: Api, door: NodeDoor, content: bytes):
    api.answer = (502, content)

    with pytest.raises(NodeError, match="says 502"):
        door.annotate({})


def test_a_server_that_is_not_there_is_said(api: Api, tmp_path: Path):
    silent = ThreadingHTTPServer(("127.0.0.1", 0), Answer, bind_and_activate=False)
    silent.server_bind()
    with pytest.raises(NodeError, match="cannot be reached"):
        NodeDoor(node="labnode", url=f"http://127.0.0.1:{silent.server_address[1]}").annotate({})
    silent.server_close()


def test_a_token_that_is_not_there_is_said(api: Api, door: NodeDoor, tmp_path: Path):
    (tmp_path / "token").unlink()

    with pytest.raises(NodeError, match="cannot be reached"):
        door.annotate({})
    assert api.came == []


@pytest.mark.parametrize("name", ["", "../pods", "lab node", "LABNODE", "a/b"])
def test_what_is_no_nodes_name_is_never_asked_for(api: Api, name: str):
    with pytest.raises(NodeError, match="no node's name"):
        NodeDoor(node=name, url=f"http://127.0.0.1:{api.server_address[1]}").annotate({})
    assert api.came == []


def test_a_pod_finds_its_cluster(tmp_path: Path):
    environment = {"KUBERNETES_SERVICE_HOST": "10.43.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    six = {**environment, "KUBERNETES_SERVICE_HOST": "fd00::1"}
    (tmp_path / "token").touch()

    found = NodeDoor.in_cluster("labnode", environment, account=tmp_path)
    other = NodeDoor.in_cluster("labnode", six, account=tmp_path)

    assert found is not None
    assert other is not None
    assert (found.url, found.ca) == ("https://10.43.0.1:443", tmp_path / "ca.crt")
    assert other.url == "https://[fd00::1]:443"


def test_who_is_in_no_pod_or_does_not_know_its_node_publishes_nothing(tmp_path: Path):
    environment = {"KUBERNETES_SERVICE_HOST": "10.43.0.1"}
    assert NodeDoor.in_cluster("labnode", environment, account=tmp_path) is None  # no account
    (tmp_path / "token").touch()

    assert NodeDoor.in_cluster(None, environment, account=tmp_path) is None
    assert NodeDoor.in_cluster("labnode", {}, account=tmp_path) is None
