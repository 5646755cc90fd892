"""The part of a kubelet that deals with device plugins, as a double: gRPC over unix sockets, as a kubelet 1.34 was recorded.

    with KubeletDouble() as kubelet:                      # kubelet.plugins, kubelet.pod_resources: where a plugin finds it
        ...                                               # the plugin registers
        kubelet.allocatable("labspawner.io/gpu-small")    # as the node's status would say; `capacity` beside it
        grant = kubelet.admit("jhub", "jupyter-ann", {"labspawner.io/gpu-small": 1})
        process = grant.start(["python", "train.py"])     # as in a container: the answer's mounts, devices, environment
        kubelet.remove("jhub", "jupyter-ann")             # ends it, frees its devices
        kubelet.restart()                                 # deletes all plugins' sockets; pods keep their devices
        kubelet.calls                                     # what was said: ("Register", ...), ("Allocate", ...), ...

`admit` raises NotEnough where a scheduler would not have sent the pod, and AdmissionError with the kubelet's own words where
Allocate fails. `grant.environment`, `grant.answer` and `grant.command(words)` are for who starts the process himself.
`stop` and `start` are a kubelet that is away for a while. All calls block; the double has threads of its own.

With `NodeDevices` it is the device manager of a node of `labspawner.testing.kube`'s cluster: pods there get slices.

double.py      the registration, the devices, the pods
plugins.py     one registered plugin, as the kubelet speaks to it
nodes.py       the double as the device manager of a double cluster's node
container.py   a command, started as in a container: bubblewrap where it works, else by variables
"""

from labspawner.testing.kubelet.container import Grant
from labspawner.testing.kubelet.double import AdmissionError, Call, KubeletDouble, NotEnough
from labspawner.testing.kubelet.nodes import NodeDevices

__all__ = ["AdmissionError", "Call", "Grant", "KubeletDouble", "NodeDevices", "NotEnough"]
