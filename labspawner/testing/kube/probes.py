"""Readiness probes: a command, a port, or a path, asked until it answers well."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any


class Probe:
    """One probe of one container; `unhealthy` is told each failure."""

    def __init__(self, spec: Mapping[str, Any], address: str, unhealthy: Callable[[str], None]) -> None:
        self._spec, self._address, self._unhealthy = spec, address, unhealthy

    async def passed(self) -> None:
        """Return when the probe has succeeded for the first time."""
        await asyncio.sleep(self._spec.get("initialDelaySeconds", 0))
        while True:
            said = await self._ask()
            if said is None:
                return
            self._unhealthy(f"Readiness probe failed: {said}")
            await asyncio.sleep(self._spec.get("periodSeconds", 10))

    async def _ask(self) -> str | None:
        """None when it is ready, else what was said."""
        if "exec" in self._spec:
            return await self._command(self._spec["exec"]["command"])
        for kind in ("httpGet", "tcpSocket"):
            if kind in self._spec:
                target = self._spec[kind]
                return await self._connect(int(target["port"]), target.get("path", "/") if kind == "httpGet" else None)
        return None

    async def _command(self, words: list[str]) -> str | None:
        pipe, same = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
        try:
            process = await asyncio.create_subprocess_exec(*words, stdout=pipe, stderr=same)
        except OSError as error:
            return str(error)
        text, _ = await process.communicate()
        return None if process.returncode == 0 else text.decode(errors="replace")

    async def _connect(self, port: int, path: str | None) -> str | None:
        try:
            reader, writer = await asyncio.open_connection(self._address, port)
        except OSError as error:
            return f"dial tcp {self._address}:{port}: connect: {error.strerror or error}"
        try:
            if path is None:
                return None
            writer.write(f"GET {path} HTTP/1.0\r\nHost: {self._address}\r\n\r\n".encode())
            words = (await reader.readline()).split()
            code = int(words[1]) if len(words) > 1 else 0
            return None if 200 <= code < 400 else f"HTTP probe failed with statuscode: {code}"
        except (OSError, ValueError) as error:
            return str(error)
        finally:
            writer.close()
