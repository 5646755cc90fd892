"""The double in a process of its own, for who measures a hub beside it: `KubeApart`.

It is told by lines on its standard input, answers each with a line of JSON, and ends with that stream.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from labspawner.testing.kube.double import Inside, KubeDouble
from labspawner.testing.kube.hami import HamiCard, registered
from labspawner.testing.kube.resources import PODS, Json
from labspawner.testing.kube.store import Change
from labspawner.testing.kube.world import Pace

_USER = "hub.jupyter.org/username"  # what KubeSpawner writes on its pods
_END_S = 60.0


@dataclass(slots=True)
class PodStory:
    """When what happened to a pod; seconds of time.monotonic(), which all processes of a machine share."""

    user: str
    made: float
    bound: float | None = None
    gone: float | None = None


class KubeApart:
    """A context manager: the double runs while it is open, with pods that are no processes.

    folder: where its kubeconfig goes. hami: the cards that HAMi shares on the first node; without any there is no HAMi.
    """

    def __init__(
        self, folder: Path, nodes: Sequence[Json], *, hami: Sequence[HamiCard] = (), pace: Pace | None = None
    ) -> None:
        spec = {
            "folder": str(folder),
            "nodes": list(nodes),
            "hami": [asdict(card) for card in hami],
            "pace": asdict(pace or Pace()),
        }
        self._spec = folder / "double.json"
        self._spec.write_text(json.dumps(spec), encoding="utf-8")
        self.kubeconfig, self.namespace, self.image = folder / "kubeconfig", "", ""
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> KubeApart:
        words = [sys.executable, "-m", "labspawner.testing.kube.apart", str(self._spec)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
        try:
            said = self._ask("where")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self.namespace, self.image = said["namespace"], said["image"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.communicate(timeout=_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def clear(self) -> None:
        """Forget what was asked until now, and the stories of pods."""
        self._ask("clear")

    def writes(self) -> int:
        """How many requests wanted to change something since the last `clear`."""
        return int(self._ask("writes"))

    def stories(self) -> dict[str, PodStory]:
        """What happened to each pod since the last `clear`, by its name."""
        return {name: PodStory(**story) for name, story in self._ask("stories").items()}

    def _ask(self, what: str) -> Any:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(what + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("the double in its own process has ended")
        return json.loads(line)


class _Teller:
    """Listens to the pods of a double, in the double's thread."""

    def __init__(self, cluster: KubeDouble) -> None:
        self._cluster = cluster
        self._stories: dict[str, PodStory] = {}
        cluster.call(self._listen)

    def answer(self, what: str) -> Any:
        if what == "where":
            return {"namespace": self._cluster.namespace, "image": self._cluster.image}
        if what == "writes":
            return self._cluster.requests.writes()
        if what == "stories":
            return self._cluster.call(lambda _: {name: asdict(story) for name, story in self._stories.items()})
        assert what == "clear"
        self._cluster.requests.clear()
        self._cluster.call(lambda _: self._stories.clear())
        return None

    def _listen(self, inside: Inside) -> None:
        inside.world.store.listeners.append(self._heard)

    def _heard(self, change: Change) -> None:
        if change.resource is not PODS:
            return
        pod, now = change.after.obj, time.monotonic()
        metadata = pod["metadata"]
        story = self._stories.get(metadata["name"])
        if story is None:
            user = str((metadata.get("annotations") or {}).get(_USER, ""))
            story = self._stories[metadata["name"]] = PodStory(user, now)
        if change.deleted:
            story.gone = now
        elif story.bound is None and pod["spec"].get("nodeName"):
            story.bound = now


def main(spec: Mapping[str, Any]) -> None:
    """Run the double that `KubeApart` described, until nobody asks any more."""
    with KubeDouble(spec["nodes"], runs="still", pace=Pace(**spec["pace"])) as cluster:
        if cards := [HamiCard(**card) for card in spec["hami"]]:
            cluster.install_hami()
            cluster.annotate_node(spec["nodes"][0]["metadata"]["name"], registered(cards))
        cluster.kubeconfig(Path(spec["folder"]))
        teller = _Teller(cluster)
        for line in sys.stdin:
            sys.stdout.write(json.dumps(teller.answer(line.strip())) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
