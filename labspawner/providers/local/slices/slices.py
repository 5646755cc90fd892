"""The slices of one provider: which card each is on, its files, and what happens to it.

A slice is promised in memory, then its card stands in a checkpoint, then its files are made in the run folder of its lease.
So a later hub process counts what earlier ones gave away from those files, and freeing the run folder frees the slice.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from logging import getLogger
from pathlib import Path

from labspawner.errors import LabError, NeverFits, NoRoom, SetupError
from labspawner.gpu import dmem, region, verdict
from labspawner.gpu.cards import Held, Inventory, capacities, nodes_of, without_strangers
from labspawner.gpu.folder import NODE_INSIDE, PRELOAD_TEXT, REGION_INSIDE, SliceFolder, make_node
from labspawner.gpu.libvgpu import find_library
from labspawner.gpu.limits import BadLimits, DeviceLimit, SliceLimits
from labspawner.gpu.nvml import Nvml
from labspawner.gpu.watchdog import tolerated
from labspawner.model import CardCapacity, GpuRefusal, GpuUsage, HeldSlice, LeaseId, Slice, SliceTest
from labspawner.placement import choose_cards
from labspawner.providers.local.network.rundir import RunDirs
from labspawner.providers.local.slices import uses
from labspawner.providers.local.slices.cards import Cards
from labspawner.providers.local.slices.inside import NO_CARD, GpuInside, SliceFiles, in_sandbox, in_the_open
from labspawner.providers.local.slices.options import GpuSettings, GpuVariant, Policy, SelfTest, core_policy
from labspawner.providers.local.slices.watch import Watch
from labspawner.providers.processes import HostProcesses
from labspawner.sentences import Sentence
from labspawner.units import human_bytes

log = getLogger(__name__)

_NODE, _STATE, _SLICE, _VERDICT, _OWNER = "node", "pretended", "slice", "verdict", "provider"
_TEST_S, _LOOK_EVERY_S = 60.0, 0.05


class Slices:
    """Gives slices out, counts them, makes and frees their files.

    provider: its name. preload: the administrator's own file of libraries for all servers; ours stands before them.
    """

    def __init__(
        self,
        settings: GpuSettings,
        run_dirs: RunDirs,
        host: HostProcesses,
        *,
        provider: str,
        hub_id: str,
        preload: str | None = None,
        open_nvml: Callable[[Path | None], Nvml] = Nvml.open,
        control_groups: Path = dmem.ROOT,
    ) -> None:
        self.settings = settings
        self._run_dirs, self._in_thread = run_dirs, host.in_thread
        self._provider, self._preload = provider, preload
        self.cards = Cards(settings, state=run_dirs.base / _STATE, make_room=run_dirs.make_base, open_nvml=open_nvml)
        self.watch = Watch(self, host, hub_id=hub_id)
        self._control_groups = control_groups
        self._promised: dict[LeaseId, HeldSlice] = {}
        self._made: set[LeaseId] = set()

    # -- what there is -------------------------------------------------------------------------------------------------

    async def capacity(self, ours: Collection[int] = ()) -> tuple[tuple[CardCapacity, ...], frozenset[LeaseId]]:
        """Each card, less what is held of it, and who holds it. ours: the pids of all servers; what other processes have
        on a card is not free either."""
        if not self.cards.wanted:
            return (), frozenset()
        inventory, held = await self._look()
        free = self._free(inventory, held)
        if self.cards.pretended is None:  # whose processes have other pids
            devices = {device.uuid: device for device in inventory.devices()}
            free = tuple(without_strangers(card, devices[card.uuid], frozenset(ours)) for card in free)
        return free, frozenset(held)

    async def _look(self) -> tuple[Inventory, dict[LeaseId, HeldSlice]]:
        made = set(self._made)
        inventory, on_disk = await self._in_thread(lambda: (self.cards.look(), self.on_disk()))
        for lease_id in made - on_disk.keys():  # another process freed them
            self.forget(lease_id)
        return inventory, {**on_disk, **self._promised}

    def on_disk(self, *, own: bool = False) -> dict[LeaseId, HeldSlice]:
        """The slices of this hub that have files; own: those of this provider. Blocks."""
        found = {}
        for lease_id in self._run_dirs.leases():
            if own and not self._is_own(lease_id):
                continue
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                try:
                    device = self._folder(lease_id).read().devices[0]
                except BadLimits as exc:
                    log.error("the limits of a slice cannot be read lease=%s: %s", lease_id, exc)
                    continue
                found[lease_id] = HeldSlice(
                    card=device.uuid, memory_bytes=device.memory_bytes, compute_pct=device.cores_pct
                )
        return found

    def _is_own(self, lease_id: LeaseId) -> bool:
        with contextlib.suppress(OSError):
            return (self._run_dirs.private(lease_id) / _OWNER).read_text(encoding="utf-8") == self._provider
        return False

    def _free(self, inventory: Inventory, held: Mapping[LeaseId, HeldSlice]) -> tuple[CardCapacity, ...]:
        taken = [
            Held(one.card, Slice(memory_bytes=one.memory_bytes, compute_pct=one.compute_pct)) for one in held.values()
        ]
        wanted = self.settings.cards
        free = capacities(inventory, taken, splits=self.settings.splits)
        if wanted == "auto" or self.settings.pretend is not None:
            return free
        whole = {card.uuid for card in inventory.cards if card.uuid in wanted}
        parts = {part.uuid for card in inventory.cards if card.uuid in whole for part in card.parts}
        return tuple(card for card in free if card.uuid in {*whole, *parts, *wanted})

    async def describe(self) -> tuple[Sentence, ...]:
        """For people: the cards that are shared, and what is free of each."""
        if not self.cards.wanted:
            return ()
        inventory, held = await self._look()
        names = {device.uuid: device.name for device in inventory.devices()}
        lines = []
        for card in self._free(inventory, held):
            lines.append(
                Sentence(
                    "Pretended card {name}: {free} of {total} free for slices. Nothing is computed on it."
                    if self.cards.pretended is not None
                    else "GPU {name}: {free} of {total} free for slices.",
                    name=names.get(card.uuid, card.uuid),
                    free=human_bytes(card.memory_free_bytes),
                    total=human_bytes(card.memory_total_bytes),
                )
            )
        if not lines and self.cards.missing is not None and (self.settings.pretend or self.settings.cards != "auto"):
            lines.append(Sentence("There are no GPU slices: {why}", why=self.cards.missing))
        if lines and await self._in_thread(self._dmem) is not None:
            lines.append(Sentence("The kernel itself holds each slice to its memory (dmem)."))
        if lines:
            lines.append(Sentence("GPU slices are fair sharing, not a wall: see what they do not stop in docs/gpu.md."))
        return tuple(lines)

    # -- giving out ----------------------------------------------------------------------------------------------------

    async def take(self, lease_id: LeaseId, gpu: Slice, variant: GpuVariant, *, sandboxed: bool) -> HeldSlice:
        """Promise a slice on the card where it belongs; nothing is made yet.

        Raises NoRoom, NeverFits, and SetupError where there is no card or what the profile requires cannot be had.
        """
        inventory, held = await self._look()
        free = self._free(inventory, held)  # from here to the promise nobody else runs
        if not free:
            raise SetupError(
                Sentence("This profile needs a GPU, and there is none here. Tell your instructor."),
                detail=f"no cards: {self.cards.missing}",
            )
        if not sandboxed and self.selftest(variant) == "require" and self.cards.pretended is None:
            raise SetupError(
                Sentence(
                    "This profile needs a GPU slice that holds, and servers here run without a sandbox. Administrator: "
                    "install bubblewrap, or set gpu.selftest to warn."
                )
            )
        chosen = choose_cards(free, gpu, policy=self.settings.policy)
        if chosen is None:
            raise _no_room(free, gpu, splits=self.settings.splits)
        off = self.selftest(variant) == "off"
        self._promised[lease_id] = promise = HeldSlice(
            card=chosen[0].uuid,
            memory_bytes=gpu.memory_bytes,
            compute_pct=gpu.compute_pct,
            tested=SliceTest.OFF if off else None,
            pretended=self.cards.pretended is not None,
            courtesy=not sandboxed,
        )
        self._made.discard(lease_id)
        self.watch.start()
        return promise

    def selftest(self, variant: GpuVariant) -> SelfTest:
        """What a profile asks of the self-test."""
        return variant.selftest or self.settings.selftest

    def make(
        self, lease_id: LeaseId, held: HeldSlice, variant: GpuVariant, *, sandboxed: bool, base: Mapping[str, str]
    ) -> GpuInside:
        """Make the files of a slice in the run folder, which is there; what to start its server with. Blocks.

        base: the server's environment so far. Raises SetupError and OSError.
        """
        files = self._files(lease_id)
        limits = self._limits(lease_id, held, variant.policy or self.settings.cores_policy)
        if not sandboxed:
            limits = replace(limits, region=str(files.folder.region), node=str(files.node))
        make_node(files.node)
        (self._run_dirs.private(lease_id) / _OWNER).write_text(self._provider, encoding="utf-8")
        try:
            files.folder.make(limits, preload=PRELOAD_TEXT + self._also_preloaded())
        except BadLimits as exc:
            raise SetupError(
                Sentence("Your server could not be started. Tell your administrator."), detail=f"no such slice: {exc}"
            ) from exc
        self._made.add(lease_id)
        tested = held.tested is not SliceTest.OFF
        if tested:
            verdict.make(files.verdict)
        pretended = self.cards.pretended
        if not sandboxed:
            return in_the_open(held.card, files, tested=tested, pretended=pretended, base=base)
        nodes = nodes_of(held.card, self.cards.look())
        return in_sandbox(held.card, files, nodes=nodes, tested=tested, pretended=pretended, base=base)

    def wall(self, lease_id: LeaseId, held: HeldSlice, inside: Path | None) -> bool:
        """Have the kernel itself refuse a server what the watchdog would end it for; whether it does. Blocks.

        inside: the server's control group, where the kernel limits the memory of devices. A node where it does not, or
        not for this card, has the library and the watchdog.
        """
        if inside is None or (found := self._dmem()) is None or held.card not in found.regions:
            return False
        try:
            found.limit(inside, {held.card: tolerated(held.memory_bytes, self.settings.tolerance)})
        except SetupError as exc:
            log.warning("the kernel does not hold a slice to its memory lease=%s: %s", lease_id, exc)
            return False
        return True

    def _dmem(self) -> dmem.Dmem | None:
        """The kernel's own limit; never for pretended cards, which it does not know."""
        return dmem.find_dmem(self.cards.known, self._control_groups) if self.cards.pretended is None else None

    @property
    def none_of_it(self) -> Mapping[str, str]:
        """What a server without a slice is told, where there are cards."""
        return NO_CARD if self.cards.known.cards else {}

    def forget(self, lease_id: LeaseId) -> None:
        """The lease holds no slice any more, and its files are gone; safe to repeat."""
        self._promised.pop(lease_id, None)
        self._made.discard(lease_id)

    async def close(self) -> None:
        """Stop looking, and give the driver back; slices stay as they are. May be repeated."""
        await self.watch.close()
        self.cards.close()
        self.tidy_up()

    def tidy_up(self) -> None:
        """Remove what all slices share, where there is none; safe to repeat. Blocks."""
        if not self._run_dirs.leases() and not self._promised:
            (self._run_dirs.base / _NODE).unlink(missing_ok=True)
            self.cards.remove_state()
            with contextlib.suppress(OSError):
                self._run_dirs.base.rmdir()

    # -- what becomes of them ------------------------------------------------------------------------------------------

    async def tried_out(
        self, lease_id: LeaseId, held: HeldSlice, variant: GpuVariant, *, expected: bool, left_s: float
    ) -> HeldSlice:
        """The slice with the verdict of the self-test that its server runs. Raises StartFailed where it has to hold and
        does not, or nobody can say.

        expected: whether its program is one that runs the test; it may begin only after the server answers, because
        JupyterHub's own extension lets requests in while others are still loaded. left_s: how long to wait at most.
        """
        if held.tested is SliceTest.OFF:
            return held
        until = time.monotonic() + max(0.0, min(left_s, _TEST_S))
        path = self.shared_files(lease_id)[1]
        while (found := await self._in_thread(verdict.read, path)) is None or (
            found is verdict.NOBODY_TESTS and expected
        ):
            if time.monotonic() >= until:
                found = found or verdict.TOO_SLOW
                break
            await asyncio.sleep(_LOOK_EVERY_S)
        if found.tested is not SliceTest.PASSED:
            log.warning("GPU slice not tested well lease=%s verdict=%s: %s", lease_id, found.tested.value, found.why)
            if self.selftest(variant) == "require":
                raise verdict.refused(found)
        return replace(held, tested=found.tested, why=found.why)

    def used(self, leases: Collection[LeaseId]) -> dict[LeaseId, GpuUsage]:
        """What is used of the slices among `leases`. Blocks; never raises for a file's sake."""
        found = {}
        for lease_id in leases:
            folder = self._folder(lease_id)
            if folder.region.exists() and (usage := uses.usage_of(folder)) is not None:
                found[lease_id] = _with_news(usage, self.watch.killed.get(lease_id))
        return found

    def loader(self, base: Mapping[str, str]) -> dict[str, str] | None:
        """What an interpreter has to be started with, to be forked into servers with a slice; None: there are none."""
        with contextlib.suppress(LabError):
            if self.cards.look().cards:
                given = {"LD_PRELOAD": str(find_library().path)}
                if self.cards.pretended is not None:
                    given["LD_LIBRARY_PATH"] = self.cards.pretended.environment(base)["LD_LIBRARY_PATH"]
                return given
        return None

    def _limits(self, lease_id: LeaseId, held: HeldSlice, policy: Policy) -> SliceLimits:
        return SliceLimits(
            name=lease_id,
            region=REGION_INSIDE,
            node=NODE_INSIDE,
            policy=core_policy(policy),
            oversubscribe=self.settings.oversubscribe,
            oom_killer=self.settings.oom_killer,
            devices=(DeviceLimit(uuid=held.card, memory_bytes=held.memory_bytes, cores_pct=held.compute_pct),),
        )

    def _also_preloaded(self) -> str:
        if self._preload is None:
            return ""
        return Path(self._preload).read_text(encoding="ascii", errors="replace").rstrip("\n") + "\n"

    def _files(self, lease_id: LeaseId) -> SliceFiles:
        folder, said, node = self.shared_files(lease_id)
        return SliceFiles(
            folder=folder,
            verdict=said,
            libvgpu=find_library().path,
            node=node,
            refusals_at=region.Header.refusals.offset,
        )

    def shared_files(self, lease_id: LeaseId) -> tuple[SliceFolder, Path, Path]:
        """What the programs of a slice may write to: its region, the verdict, and what all slices share."""
        return (
            self._folder(lease_id),
            self._run_dirs.private(lease_id) / _VERDICT,
            self._run_dirs.base / _NODE,
        )

    def _folder(self, lease_id: LeaseId) -> SliceFolder:
        return SliceFolder(self._run_dirs.private(lease_id) / _SLICE)


def _with_news(usage: GpuUsage, killed: GpuRefusal | None) -> GpuUsage:
    """The last that the student should hear of; each new one has another count."""
    if killed is None:
        return usage
    refused = usage.refused
    last = killed if refused is None or killed.at >= refused.at else refused
    return replace(usage, refused=replace(last, count=killed.count + (refused.count if refused else 0)))


def _no_room(cards: tuple[CardCapacity, ...], gpu: Slice, *, splits: int) -> LabError:
    empty = [
        replace(card, memory_free_bytes=card.memory_total_bytes, compute_free_pct=100, slots_free=splits)
        for card in cards
    ]
    if choose_cards(empty, gpu) is None:
        return NeverFits(gpu.memory_bytes, max(card.memory_total_bytes for card in cards))
    largest = max(card.memory_free_bytes for card in cards)
    free = human_bytes(largest)
    if free == human_bytes(gpu.memory_bytes):  # "6 GiB" are free, and 6 GiB do not fit
        free = f"{largest // 2**20} MiB"
    return NoRoom(
        Sentence(
            "All GPUs are busy: the largest free share is {free}. Pick a smaller profile, or try again in a few minutes.",
            free=free,
        ),
        detail=f"no card with room wanted_bytes={gpu.memory_bytes} largest_free_bytes={largest}",
    )
