"""One container of a pod: its image, its configuration, its runs and what follows when it dies."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from labspawner.testing.kube import images
from labspawner.testing.kube.images import Image
from labspawner.testing.kube.podenv import ConfigError, environment
from labspawner.testing.kube.podstatus import ContainerView
from labspawner.testing.kube.probes import Probe
from labspawner.testing.kube.quantities import value
from labspawner.testing.kube.running import Running, Start, StartFailed

if TYPE_CHECKING:
    from labspawner.testing.kube.podlife import PodLife

_LONGEST_BACKOFF_S = 300.0
_MEMORY_LOOK_S = 0.25


class ContainerLife:
    """Runs one container until it ends for good; the pod decides when that is asked for."""

    def __init__(self, life: PodLife, view: ContainerView) -> None:
        self._life, self.view, self._spec = life, view, view.spec
        self._running: Running | None = None
        self._ended = asyncio.Event()
        self._logs: list[Path] = []
        self._out_of_memory = False
        self.stopping = False

    @property
    def is_running(self) -> bool:
        return self._running is not None and "running" in self.view.state

    async def run(self) -> None:
        """Until it has ended and is not to start again."""
        deaths = 0
        while not self.stopping:
            image = await self._image()
            variables = await self._configuration()
            code = await self._once(image, variables, deaths)
            policy = self._life.pod["spec"]["restartPolicy"]
            if policy == "Never" or (policy == "OnFailure" and code == 0):
                return
            deaths += 1
            if not self.stopping:
                await self._back_off(deaths)

    # before it runs

    async def _image(self) -> Image:
        name, pulls = self._spec["image"], 0
        while True:
            image = self._life.kubelet.machine.image(name)
            policy = self._spec["imagePullPolicy"]
            if invalid := images.invalid_name(name):
                await self._hold("InvalidImageName", invalid, "InspectFailed")
            elif policy == "Never" and (image is None or not image.present):
                text = f'Container image "{name}" is not present with pull policy of Never'
                await self._hold("ErrImageNeverPull", text, "ErrImageNeverPull")
            elif image is not None and image.present and policy != "Always":
                self._tell("Normal", "Pulled", f'Container image "{name}" already present on machine')
                return image
            elif await self._pulled(name, image, pulls):
                assert image is not None
                return image
            pulls += 1

    async def _hold(self, reason: str, message: str, event: str) -> None:
        self._tell("Warning", event, message)
        self._tell("Warning", "Failed", f"Error: {reason}")
        self._wait(reason, message)
        await self._something_new(None)

    async def _pulled(self, name: str, image: Image | None, pulls: int) -> bool:
        pace = self._life.world.pace
        self._tell("Normal", "Pulling", f'Pulling image "{name}"')
        if pace.pull_s:
            await asyncio.sleep(pace.pull_s)
        error = (image.pull_error if image else "") or ("" if image else images.unknown(name))
        if not error:
            self._tell("Normal", "Pulled", f'Successfully pulled image "{name}" in {pace.pull_s * 1000:.0f}ms')
            return True
        self._tell("Warning", "Failed", f'Failed to pull image "{name}": {error}')
        self._tell("Warning", "Failed", "Error: ErrImagePull")
        self._wait("ErrImagePull", error)
        await asyncio.sleep(0)  # each of the two states is seen
        self._tell("Normal", "BackOff", f'Back-off pulling image "{name}"')
        self._tell("Warning", "Failed", "Error: ImagePullBackOff")
        self._wait("ImagePullBackOff", f'Back-off pulling image "{name}": ErrImagePull: {error}')
        await self._something_new(min(pace.pull_backoff_s * 2**pulls, _LONGEST_BACKOFF_S))
        return False

    async def _configuration(self) -> dict[str, str]:
        life = self._life
        while True:
            try:
                if self._is_root_where_none_may_be():
                    where = f'pod: "{life.key[1]}_{life.key[0]}({life.uid})", container: {self.view.name}'
                    raise ConfigError(f"container's runAsUser breaks non-root policy ({where})")
                found = environment(life.pod, self._spec, life.address, life.kubelet.lookup(life.key[0]))
                return found | life.environment.get(self.view.name, {})
            except ConfigError as error:
                self._tell("Warning", "Failed", f"Error: {error}")
                self._wait("CreateContainerConfigError", str(error))
            await self._something_new(None)

    def _is_root_where_none_may_be(self) -> bool:
        pod = self._life.pod["spec"].get("securityContext") or {}
        own = self._spec.get("securityContext") or {}
        return (
            bool(own.get("runAsNonRoot", pod.get("runAsNonRoot"))) and own.get("runAsUser", pod.get("runAsUser")) == 0
        )

    async def _something_new(self, after_s: float | None) -> None:
        changed = self._life.changed
        changed.clear()
        timer = asyncio.get_running_loop().call_later(after_s, changed.set) if after_s is not None else None
        try:
            await changed.wait()
        finally:
            if timer is not None:
                timer.cancel()

    # while it runs

    async def _once(self, image: Image, variables: dict[str, str], attempt: int) -> int:
        life = self._life
        start = Start(life.pod, self._spec, image, life.address, variables, attempt)
        self._tell("Normal", "Created", f"Created container: {self.view.name}")
        identity = f"containerd://{secrets.token_hex(32)}"
        self._ended.clear()
        try:
            self._running = life.kubelet.machine.runner.start(start)
        except StartFailed as error:
            self._tell("Warning", "Failed", f"Error: {error}")
            self.view.container_id, self.view.image_id = identity, f"sha256:{secrets.token_hex(32)}"
            self.view.end(128, "StartError", str(error))
            life.write()
            return 128
        self._tell("Normal", "Started", f"Started container {self.view.name}")
        self._logs += [self._running.log] if self._running.log is not None else []
        self.view.run(identity, f"sha256:{secrets.token_hex(32)}")
        return await self._until_it_ends(self._running)

    async def _until_it_ends(self, running: Running) -> int:
        pace, probe = self._life.world.pace, self._spec.get("readinessProbe")
        self.view.ready = probe is None and not pace.ready_s
        self._life.write()
        beside = [asyncio.ensure_future(self._become_ready(probe))] if not self.view.ready else []
        if (limit := self._memory_limit()) is not None:
            beside.append(asyncio.ensure_future(self._watch_memory(running, limit)))
        try:
            code = await running.wait()
        finally:
            for task in beside:
                task.cancel()
            self._ended.set()
        reason = "OOMKilled" if self._out_of_memory else "Completed" if code == 0 else "Error"
        self._out_of_memory = False
        self.view.end(code, reason)
        if not self.stopping:
            self._life.write()
        return code

    async def _become_ready(self, probe: dict[str, object] | None) -> None:
        if probe is None:
            await asyncio.sleep(self._life.world.pace.ready_s)
        else:
            await Probe(probe, self._life.address, lambda text: self._tell("Warning", "Unhealthy", text)).passed()
        self.view.ready = True
        self._life.write()

    def _memory_limit(self) -> int | None:
        limit = ((self._spec.get("resources") or {}).get("limits") or {}).get("memory")
        return int(value(limit)) if limit and self._life.kubelet.machine.enforce_memory else None

    async def _watch_memory(self, running: Running, limit: int) -> None:
        while True:
            await asyncio.sleep(_MEMORY_LOOK_S)
            if running.memory_bytes() > limit:
                self.run_out_of_memory()
                return

    async def _back_off(self, deaths: int) -> None:
        if deaths == 1:
            return  # the first restart comes at once
        wait_s = min(self._life.world.pace.restart_backoff_s * 2 ** (deaths - 2), _LONGEST_BACKOFF_S)
        namespace, name = self._life.key
        pod = f"{name}_{namespace}({self._life.uid})"
        text = f"back-off {wait_s:g}s restarting failed container={self.view.name} pod={pod}"
        self._tell("Warning", "BackOff", f"Back-off restarting failed container {self.view.name} in pod {pod}")
        self._wait("CrashLoopBackOff", text)
        await asyncio.sleep(wait_s)

    # its end

    async def end(self, grace_s: float) -> None:
        """Ask it to end, and end it when the grace is over; returns when it has ended."""
        running = self._running
        if running is None or "running" not in self.view.state:
            return
        running.end()
        timer = asyncio.get_running_loop().call_later(grace_s, running.kill)
        try:
            await self._ended.wait()
        finally:
            timer.cancel()
            running.kill()  # what it started

    def kill(self) -> None:
        if self._running is not None:
            self._running.kill()

    def run_out_of_memory(self) -> None:
        """It is killed as the kernel does, for want of memory."""
        self._out_of_memory = True
        self.kill()

    # what it says

    def log(self, *, previous: bool) -> tuple[Path, Callable[[], bool]] | None:
        wanted = 2 if previous else 1
        if len(self._logs) < wanted:
            return None
        return self._logs[-wanted], lambda: self.is_running and not previous

    def _wait(self, reason: str, message: str = "") -> None:
        self.view.wait(reason, message)
        self._life.write()

    def _tell(self, kind: str, reason: str, message: str) -> None:
        self._life.tell(kind, reason, message, self.view.name)
