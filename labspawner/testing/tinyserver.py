"""A single-user server in one small file, for tests of providers that run a real command. Standard library only.

Run by path, not by module, so that it starts in about 50 ms and needs none of our code:
`command(...)` gives the command line. It listens where `JUPYTERHUB_SERVICE_URL` says and answers every path: `.../api`
as JSON, anything else with a page that names `JUPYTERHUB_USER`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


def command(
    *,
    listen_after_s: float = 0.0,
    never_listen: bool = False,
    die_after_s: float | None = None,
    die_when_asked: bool = False,
    exit_code: int = 0,
    say: str = "",
    deaf: bool = False,
) -> tuple[str, ...]:
    """The command line of a server that behaves so.

    listen_after_s: seconds until it answers; never_listen: it lives and never does. die_after_s: seconds until it
    exits with `exit_code`, counted from its start; die_when_asked: it does when somebody asks for `.../die`. say:
    printed to stderr first. deaf: it ignores SIGINT and SIGTERM.
    """
    words = [sys.executable, "-I", __file__, f"--listen-after={listen_after_s}", f"--exit-code={exit_code}"]
    words += [f"--die-after={die_after_s}"] if die_after_s is not None else []
    words += [f"--say={say}"] if say else []
    words += ["--die-when-asked"] if die_when_asked else []
    words += ["--never-listen"] if never_listen else []
    words += ["--deaf"] if deaf else []
    return tuple(words)


class _Handler(BaseHTTPRequestHandler):  # pragma: no cover - runs with -I, out of coverage's sight
    protocol_version = "HTTP/1.1"
    deadly: int | None = None

    def do_GET(self) -> None:
        api = urlsplit(self.path).path.rstrip("/").endswith("/api")
        user = os.environ.get("JUPYTERHUB_USER", "")
        text = json.dumps({"version": "tiny"}) if api else f"<!doctype html><title>tiny</title><p>{escape(user)}</p>"
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json" if api else "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if self.path.endswith("/die") and self.deadly is not None:
            self.wfile.flush()
            os._exit(self.deadly)

    def log_message(self, *args: object) -> None:
        """Say nothing per request."""


def main(arguments: list[str] | None = None) -> None:  # pragma: no cover - runs with -I, out of coverage's sight
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen-after", type=float, default=0.0)
    parser.add_argument("--die-after", type=float)
    parser.add_argument("--die-when-asked", action="store_true")
    parser.add_argument("--exit-code", type=int, default=0)
    parser.add_argument("--say", default="")
    parser.add_argument("--never-listen", action="store_true")
    parser.add_argument("--deaf", action="store_true")
    options, _ = parser.parse_known_args(arguments)  # a provider may add Jupyter's own options
    if options.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if options.say:
        sys.stderr.write(options.say + "\n")
        sys.stderr.flush()
    if options.die_after is not None:
        threading.Thread(target=_die, args=(options.die_after, options.exit_code), daemon=True).start()
    _Handler.deadly = options.exit_code if options.die_when_asked else None
    time.sleep(options.listen_after)
    while options.never_listen:
        time.sleep(3600)
    url = urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"])
    ThreadingHTTPServer((url.hostname or "127.0.0.1", url.port or 80), _Handler).serve_forever()


def _die(after_s: float, exit_code: int) -> None:  # pragma: no cover - runs with -I, out of coverage's sight
    time.sleep(after_s)
    os._exit(exit_code)


if __name__ == "__main__":
    main()
