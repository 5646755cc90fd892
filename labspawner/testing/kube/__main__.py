"""`python -m labspawner.testing.kube`: the double as a program, until it is interrupted."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from labspawner.testing.kube.double import KubeDouble
from labspawner.testing.kube.nodes import a_node


def main(arguments: list[str] | None = None) -> None:
    """Write `kubeconfig` into the folder given, say where it is, and run."""
    parser = argparse.ArgumentParser(prog="python -m labspawner.testing.kube", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the kubeconfig is written")
    parser.add_argument("--runs", choices=["processes", "still"], default="processes", help="what a pod is")
    parser.add_argument("--namespace", default="labs")
    parser.add_argument("--nodes", type=int, default=1, help="how many nodes")
    parser.add_argument("--cpu", type=float, default=8, help="CPUs of each")
    parser.add_argument("--memory", default="32Gi", help="memory of each")
    parser.add_argument("--pods", type=int, default=110, help="how many pods each may have")
    parser.add_argument("--resource", action="append", default=[], metavar="NAME=COUNT", help="nvidia.com/gpu=10")
    parser.add_argument("--tls", action="store_true")
    options = parser.parse_args(arguments)
    extended = dict(text.split("=", 1) for text in options.resource)
    names = ["labnode", *(f"labnode-{number}" for number in range(2, options.nodes + 1))]
    shape = {"cpu": options.cpu, "memory": options.memory, "pods": options.pods, "extended": extended}
    nodes = [a_node(name, **shape) for name in names]
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    with KubeDouble(nodes, namespace=options.namespace, runs=options.runs, tls=options.tls) as cluster:
        path = cluster.kubeconfig(options.folder)
        sys.stdout.write(f"{cluster.url}\nKUBECONFIG={path}\n")
        sys.stdout.flush()
        over.wait()


if __name__ == "__main__":
    main()
