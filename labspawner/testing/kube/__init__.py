"""A small Kubernetes for tests: an API server with scheduler, kubelet and controllers behind it, as recorded on 1.34.

    from labspawner.testing.kube import Image, KubeDouble, Pace, a_node

    with KubeDouble([a_node(cpu=8, memory="32Gi", extended={"nvidia.com/gpu": 10})]) as cluster:
        os.environ["KUBECONFIG"] = str(cluster.kubeconfig(folder))
        ...

It answers at `cluster.url`, on a port of the kernel's choice of 127.0.0.1; `python -m labspawner.testing.kube` runs it as a
program.

- Where it is: `url`, `token` (an administrator's), `namespace`, `image` (the one that is there), `ca_file` (with `tls=True`),
  `kubeconfig(folder, token=...)`.
- What is in it: `pods()`, `pod(name)`, `events(name)`, `objects(plural)`, `node(name)`, and `requests` with
  `count(verb, resource)`, `writes(resource)` and `clear()`.
- What an administrator does: `apply`, `delete`, `account(name, rules)` (a service account with a Role; its token),
  `annotate_node`, `set_resources`, `add_node`, `add_image`, `use_devices` (a device manager that admits pods or raises
  NotAdmitted), `install_hami(webhook=..., scheduler=...)` with `annotate_node(name, registered([HamiCard(...)]))`.
- What happens to pods: `evict(name)`, `kill(name, out_of_memory=...)`.
- What breaks: `faults`, see `faultswitch.Faults`.

A pod runs as local processes with an address of its own in 127.64.0.0/10 (`runs="processes"`), so that all may listen on
8888: its address stands for 0.0.0.0 in JUPYTERHUB_SERVICE_URL. Its image is a name that means a Python environment
(`images={"lab/pytorch:2.9": Image(environment=...)}`; `cluster.image` means this one). A claim that is mounted at the
image's home is the process's HOME. With `runs="still"` there is no process, and one tiny answerer for all pods.

Everything happens at once unless `Pace` says how long it takes. tests/kube/test_double_replay.py compares the answers with
a recording of Kubernetes 1.34. What the double cannot show is for a run against a real cluster: networking and DNS, Services
and NetworkPolicies, isolation between pods, users inside images, protobuf, preemption, affinity between pods, and
everything that no recorded request asked.
"""

from __future__ import annotations

from labspawner.testing.kube.double import KubeDouble
from labspawner.testing.kube.faults import Request, RequestLog
from labspawner.testing.kube.faultswitch import Faults
from labspawner.testing.kube.hami import HamiCard, HamiNames, registered
from labspawner.testing.kube.images import DEFAULT_IMAGE, Image
from labspawner.testing.kube.nodes import a_node
from labspawner.testing.kube.running import Devices, NotAdmitted
from labspawner.testing.kube.world import Pace

__all__ = [
    "DEFAULT_IMAGE",
    "Devices",
    "Faults",
    "HamiCard",
    "HamiNames",
    "Image",
    "KubeDouble",
    "NotAdmitted",
    "Pace",
    "Request",
    "RequestLog",
    "a_node",
    "registered",
]
