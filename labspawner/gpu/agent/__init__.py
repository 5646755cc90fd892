"""`labspawner gpu agent`: what runs on each GPU node of a Kubernetes cluster that has no HAMi.

It cuts the node's cards into slices of fixed classes, offers them to the kubelet as extended resources
(`labspawner.io/gpu-small`), prepares the files of each slice, and says which pod has which.

settings.py, layout.py     what an administrator wants; the cards cut accordingly, or why that is impossible. Pure
choosing.py, answers.py    which slices the kubelet should take; what a container gets. Pure
snapshot.py, inventory.py  what is known at one moment; what hubs are told of it, `labspawner.io/gpu-inventory`. Pure
wire.py                    the messages of the kubelet's device plugin API v1beta1 and pod-resources API v1. Pure
shelf.py, folders.py       the slices that can be given; their files, ready before anybody asks
plugin.py, kubelet.py      the gRPC server of one class; registration, and which pod has which device
books.py, overlap.py       who has which slice, and what becomes of those whose pod is gone, or that are of an earlier layout
cards.py                   NVML, in a thread of its own
containers.py              which slice a process of the host is in: control group, container, mounts
node.py                    the one door to the API server: the node's annotation
metrics.py                 what Prometheus reads
agent.py, serving.py       all of it together; as a process, from start to SIGTERM

**What a server in a slice sees** is what the local provider shows too: the limits at /etc/labspawner/slice/limits, the
region at /etc/labspawner/region, /etc/labspawner/node, /etc/labspawner/libvgpu.so and /etc/ld.so.preload. The self-test is
at /etc/labspawner/selftest.py; LABSPAWNER_SELFTEST, LABSPAWNER_VERDICT and LABSPAWNER_GPU_REFUSALS in the container's
environment name it, so that our server extension runs it. The verdict is read on the node and stands in the annotation
(`SliceUse.tested`), where a hub finds it by namespace, pod and container.
"""
