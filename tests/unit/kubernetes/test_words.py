"""What a cluster says, as a kind and a sentence. The texts of statuses and events are recorded from Kubernetes 1.34."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unit.kubernetes.objects import a_node, a_pod, an_event, terminated, unschedulable, waiting

from labspawner.errors import LeaseConflict, NeverFits, NoRoom, ProviderUnavailable, SetupError, StartFailed
from labspawner.providers.kubernetes.strategies.contract import Kind, Waiting
from labspawner.providers.kubernetes.strategies.none import NoGpus
from labspawner.providers.kubernetes.views import PodView
from labspawner.providers.kubernetes.words import ended, error_of, refusal, unreachable
from labspawner.providers.kubernetes.words.placing import insufficient
from labspawner.sentences import Sentence

NO_HOST = (
    'Back-off pulling image "registry.invalid/lab/none:1": ErrImagePull: failed to pull and unpack image '
    '"registry.invalid/lab/none:1": failed to resolve reference "registry.invalid/lab/none:1": failed to do request: '
    'Head "https://registry.invalid/v2/lab/none/manifests/1": dial tcp: lookup registry.invalid on DNS: no such host'
)
MISSING = (
    'failed to pull and unpack image "docker.io/lab/nope:1": failed to resolve reference "docker.io/lab/nope:1": '
    "docker.io/lab/nope:1: not found"
)
HIDDEN = (
    'failed to pull and unpack image "docker.io/lab/nope:1": failed to resolve reference "docker.io/lab/nope:1": pull '
    "access denied, repository does not exist or may require authorization: server message: insufficient_scope: "
    "authorization failed"
)
PRIVATE = (
    'failed to pull and unpack image "r.lab/x:1": failed to resolve reference "r.lab/x:1": failed to authorize: failed to '
    "fetch anonymous token: unexpected status from GET request to https://r.lab/token: 401 Unauthorized"
)
FULL = (
    "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. no new claims to deallocate, preemption: 0/1 nodes are "
    "available: 1 No preemption victims found for incoming pod."
)
NEVER = (
    "0/1 nodes are available: 1 Insufficient memory. no new claims to deallocate, preemption: 0/1 nodes are available: "
    "1 Preemption is not helpful for scheduling."
)
SELECTOR = (
    "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. no new claims to deallocate, "
    "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
)
TAINT = (
    "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) had untolerated taint {lab/fake: }. no new claims "
    "to deallocate, preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is "
    "not helpful for scheduling."
)


def why(pod: PodView, *events: Any, nodes: Any = None, pods: Any = ()) -> Waiting:
    """Why the pod waits, on a node that has room unless another one is named."""
    found = NoGpus().why_waiting(pod, events, [a_node()] if nodes is None else nodes, pods)
    assert found is not None
    assert found.message
    return found


def on_a_node(status: dict[str, Any] | None = None, **changes: Any) -> PodView:
    return a_pod(node="node-1", status=status, **changes)


# reason, message, kind, words of the student, the image
CONTAINERS = {
    "ErrImageNeverPull": (
        'Container image "docker.io/lab/none:1" is not present with pull policy of Never',
        "The image docker.io/lab/none:1 is not on the machine",
        "docker.io/lab/none:1",
    ),
    "InvalidImageName": (
        'Failed to apply default image tag "Bad Image": couldn\'t parse image name "Bad Image": invalid reference '
        "format: repository name (library/Bad Image) must be lowercase",
        "'Bad Image' is not the name of an image",
        "Bad Image",
    ),
    "CreateContainerConfigError": ('secret "nosecret" not found', "needs the Secret nosecret", "lab/x:1"),
    "CreateContainerError": (
        "CDI device injection failed: unresolvable CDI devices lab.io/gpu=x",
        "could not start a container of the image lab/x:1",
        "lab/x:1",
    ),
    "RunContainerError": (
        'failed to create containerd task: OCI runtime create failed: exec: "jupyterhub-singleuser": executable file not '
        "found in $PATH: unknown",
        "The image lab/x:1 has no program jupyterhub-singleuser",
        "lab/x:1",
    ),
    "RegistryUnavailable": ("", "The registry of the image lab/x:1 does not answer", "lab/x:1"),
    "SignatureValidationFailed": ("image signature is wrong", "The image lab/x:1 cannot be fetched", "lab/x:1"),
}


@pytest.mark.parametrize("reason", CONTAINERS)
def test_what_the_kubelet_cannot_do_with_a_container_is_said_at_once(reason):
    message, words, image = CONTAINERS[reason]

    found = why(on_a_node(waiting(reason, message), image=image))

    assert found.kind is Kind.FAILED
    assert words in found.message
    assert reason in found.detail
    assert message in found.detail


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ('container\'s runAsUser breaks non-root policy (pod: "x", container: notebook)', "wants to run as root"),
        ('configmap "profile" not found', "needs the ConfigMap profile"),
        ("device plugin PreStartContainer rpc failed with err: endpoint has been stopped", "cannot hand out its GPU"),
        ("couldn't find key a in Secret b/c", "does not accept"),
    ],
)
def test_a_configuration_that_no_container_can_have_is_told_apart(message, words):
    assert words in why(on_a_node(waiting("CreateContainerConfigError", message))).message


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (MISSING, "does not exist. Tell your instructor: its name or version is misspelt"),
        (HIDDEN, "does not exist, or its registry does not give it"),
        (PRIVATE, "it needs a pull secret"),
        ("no match for platform in manifest: not found", "not made for the processors"),
        ("write /var/lib/containerd/x: no space left on device", "no disk space left for the image"),
        (
            "tls: failed to verify certificate: x509: certificate signed by unknown authority",
            "does not trust the registry",
        ),
        ("something new", "cannot be fetched"),
    ],
)
@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff"])
def test_an_image_that_cannot_be_fetched_says_why(reason, message, words):
    found = why(on_a_node(waiting(reason, message), image="lab/x:1"), an_event("Failed", f"Error: {reason}", count=2))

    assert found.kind is Kind.FAILED or "certificate" in message
    assert "lab/x:1" in found.message
    assert words in (found.stuck or found.message)


def test_a_registry_that_does_not_answer_is_asked_again_before_the_start_is_given_up():
    pulled = 'Failed to pull image "registry.invalid/lab/none:1": dial tcp: no such host'
    pod = on_a_node(waiting("ImagePullBackOff", NO_HOST), image="registry.invalid/lab/none:1")

    first = why(pod, an_event("Failed", pulled, count=1), an_event("Failed", "Error: ErrImagePull", count=1))
    second = why(pod, an_event("Failed", pulled, count=2))

    assert first.kind is Kind.STARTING
    assert first.stuck is not None
    assert "does not answer" in first.stuck
    assert second.kind is Kind.FAILED
    assert "does not answer" in second.message


def test_a_back_off_without_a_reason_takes_it_from_the_events():
    """Older kubelets say only `Back-off pulling image`."""
    pod = on_a_node(waiting("ImagePullBackOff", 'Back-off pulling image "lab/x:1"'), image="lab/x:1")

    found = why(pod, an_event("Failed", f"Failed to pull image: {MISSING}"), an_event("Failed", "Error: ErrImagePull"))

    assert "does not exist. Tell your instructor" in found.message
    assert "not found" in found.detail


def test_a_container_that_crashes_again_and_again_asks_for_its_log():
    last = {"exitCode": 1, "reason": "Error"}
    status = waiting("CrashLoopBackOff", "back-off 10s restarting failed container=notebook pod=x", last=last)

    found = why(on_a_node({**status, "phase": "Running"}))

    assert (found.kind, found.asks_log) == (Kind.FAILED, True)
    assert "stopped while it was starting (exit code 1)" in found.message


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (terminated("Error", 1), "stopped while it was starting (exit code 1)"),
        (terminated("Completed", 0, phase="Succeeded"), "ended by itself right after its start"),
        (terminated("OOMKilled", 137), "used more memory than its 100 MiB"),
        (terminated("Error", 137), "was killed while it was starting"),
        (terminated("Error", 127), "could not start a container of the image"),
        (terminated("ContainerStatusUnknown", 137), "The machine that ran your server was lost"),
        (
            terminated(
                "StartError",
                128,
                "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create "
                'failed: unable to start container process: exec: "/no/such/binary": stat /no/such/binary: no such file '
                "or directory: unknown",
            ),
            "has no program /no/such/binary",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_container_that_ended_says_how(status, words):
    found = why(on_a_node(status, limits={"memory": "100Mi"}))

    assert found.kind is Kind.FAILED
    assert words in found.message
    assert "exit code" in found.detail


@pytest.mark.parametrize(
    ("reason", "message", "words", "again"),
    [
        (
            "UnexpectedAdmissionError",
            "Pod was rejected: Allocate failed due to no healthy devices present; cannot allocate unhealthy devices "
            "labspawner.io/gpu-small, which is unexpected",
            "could not give your server its GPU slice",
            True,
        ),
        ("UnexpectedAdmissionError", "Pod was rejected: something", "did not take it", True),
        ("OutOfcpu", "Pod was rejected: Node didn't have enough resource: cpu", "full by then", True),
        ("OutOfnvidia.com/gpu", "Pod was rejected", "full by then", True),
        ("Evicted", "The node was low on resource: memory. Threshold quantity: 100Mi", "ran short of memory", True),
        ("Evicted", "The node was low on resource: ephemeral-storage.", "ran short of disk space", True),
        (
            "Evicted",
            "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi.",
            "wrote more",
            False,
        ),
        ("Evicted", 'Usage of EmptyDir volume "x" exceeds the limit', "wrote more", False),
        ("Evicted", "", "overloaded", True),
        ("NodeLost", "Node x which was running pod is unresponsive", "was lost", True),
        ("Terminated", "Pod was terminated in response to imminent node shutdown.", "being shut down", True),
        ("Preempting", "Preempted in order to admit critical pod", "had to make room", True),
        ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline", "as long as", False),
        ("", "", "does not say why", False),
    ],
)
def test_a_pod_that_the_cluster_ended_says_why(reason, message, words, again):
    found = why(on_a_node({"phase": "Failed", "reason": reason, "message": message}))

    assert (found.kind, found.again) == (Kind.FAILED, again)
    assert words in found.message
    assert message in found.detail


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("DeletionByTaintManager", "was lost"),
        ("EvictionByEvictionAPI", "moved off its machine"),
        ("PreemptionByScheduler", "had to make room"),
    ],
)
def test_a_pod_that_is_being_taken_away_says_by_whom(reason, words):
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "m"}
    found = why(on_a_node({"phase": "Running", "conditions": [condition]}))

    assert words in found.message
    assert reason in found.detail


def test_a_pod_that_somebody_deletes_says_so():
    pod = PodView.of(
        {"metadata": {"name": "x", "deletionTimestamp": "2026-11-21T21:18:00Z"}, "status": {"phase": "Running"}}
    )

    found = ended(pod)

    assert found is not None
    assert "was deleted from the cluster" in found.message
    assert ended(a_pod()) is None


def test_a_server_that_was_ready_did_not_fail_to_start():
    status = terminated("Error", 3)

    found = ended(on_a_node(status), was_ready=True)

    assert found is not None
    assert found.message == "Your server stopped unexpectedly (exit code 3). Start it again."


def test_only_insufficient_is_read_from_the_schedulers_text():
    assert insufficient(TAINT) == ("nvidia.com/gpu",)
    assert insufficient("0/3 nodes are available: 1 Insufficient memory, 2 Insufficient nvidia.com/mig-1g.10gb.") == (
        *("memory", "nvidia.com/mig-1g.10gb"),
    )
    assert insufficient("a text of the year 2030") == ()


def test_a_pod_that_nobody_looked_at_yet_waits_for_a_place():
    found = why(a_pod())

    assert (found.kind, found.message, found.detail) == (Kind.STARTING, "Waiting for a place in the cluster", "")
    assert found.stuck


def test_more_memory_than_the_largest_machine_never_fits_whatever_the_text_says():
    pod = a_pod(limits={"memory": "64Gi", "cpu": 1}, status=unschedulable(FULL))

    found = why(pod)

    assert found.kind is Kind.NEVER
    assert found.message.startswith(
        "This can never fit: it needs 64 GiB of memory, and the largest machine has 32 GiB."
    )
    assert found.detail == FULL


def test_more_processors_than_the_largest_machine_never_fit():
    assert "it needs 16 of processors, and the largest machine has 8" in why(a_pod(limits={"cpu": 16})).message


def test_what_fits_an_empty_machine_is_full_now_whatever_the_text_says():
    holder = a_pod("holder", node="node-1", limits={"memory": "30Gi"})

    found = why(a_pod(limits={"memory": "8Gi"}, status=unschedulable(NEVER)), pods=[holder])

    assert found.kind is Kind.FULL
    assert found.message == "No machine of the cluster has enough memory free now. Try again in a few minutes."


def test_each_fits_some_machine_and_all_together_fit_none():
    nodes = [a_node("a", allocatable={"cpu": "64", "memory": "1Gi"}), a_node("b", allocatable={"cpu": "1"})]

    found = why(a_pod(limits={"cpu": 8, "memory": "8Gi"}), nodes=nodes)

    assert found.kind is Kind.NEVER
    assert "no single machine has all" in found.message


def test_a_resource_that_no_machine_has_is_named():
    text = FULL.replace("nvidia.com/gpu", "nvidia.com/mig-1g.10gb")

    found = why(a_pod(limits={"nvidia.com/mig-1g.10gb": 1}, status=unschedulable(text)))

    assert found.kind is Kind.FAILED
    assert "offers what this profile asks for (nvidia.com/mig-1g.10gb)" in found.message


def test_a_resource_that_others_hold_is_full_now():
    node = a_node(allocatable={"nvidia.com/gpu": 10})

    assert why(a_pod(limits={"nvidia.com/gpu": 4}, status=unschedulable(FULL)), nodes=[node]).kind is Kind.FULL
    assert why(a_pod(limits={"nvidia.com/gpu": 11}, status=unschedulable(FULL)), nodes=[node]).kind is Kind.NEVER


def test_a_selector_that_no_machine_has_fails_at_once():
    found = why(a_pod(nodeSelector={"pool": "tpu"}, status=unschedulable(SELECTOR)))

    assert found.kind is Kind.FAILED
    assert "of the kind that this profile asks for" in found.message
    assert "pool=tpu" in found.detail


def test_machines_that_are_all_reserved_for_something_else_fail_at_once():
    node = a_node(taints=[{"key": "lab/fake", "effect": "NoSchedule"}])

    found = why(a_pod(status=unschedulable(TAINT)), nodes=[node])

    assert found.kind is Kind.FAILED
    assert "reserved for something else" in found.message
    assert "lab/fake" in found.detail


def test_without_a_right_to_see_nodes_the_schedulers_word_is_full_now():
    found = why(a_pod(limits={"memory": "64Gi"}, status=unschedulable(NEVER)), nodes=[])

    assert found.kind is Kind.FULL
    assert "enough memory free now" in found.message


def test_what_the_scheduler_said_may_stand_in_an_event_alone():
    found = why(a_pod(limits={"cpu": 1}), an_event("FailedScheduling", "0/1 nodes are available: 1 Insufficient cpu."))

    assert found.kind is Kind.FULL
    assert "enough processors free now" in found.message


def test_an_event_of_an_earlier_pod_of_the_same_name_says_nothing_of_this_one():
    found = why(on_a_node(), an_event("FailedMount", "x", count=9, uid="uid-of-yesterday"))

    assert found.message == "Preparing your server"


CLAIMS = {"volumes": [{"name": "home", "persistentVolumeClaim": {"claimName": "claim-ann"}}]}


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ('0/1 nodes are available: persistentvolumeclaim "nope" not found. not found', Kind.FAILED, "is missing"),
        (
            "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found",
            Kind.STARTING,
            "Waiting for the disk",
        ),
        ('0/1 nodes are available: persistentvolumeclaim "x" is being deleted. y', Kind.FAILED, "just being deleted"),
        (
            "0/1 nodes are available: 1 node(s) had volume node affinity conflict.",
            Kind.FAILED,
            "cannot run this profile",
        ),
    ],
)
def test_a_disk_that_is_not_there_is_told_apart_from_a_place_that_is_not_there(text, kind, words):
    found = why(a_pod(status=unschedulable(text), **CLAIMS))

    assert found.kind is kind
    assert words in found.message
    assert found.detail == text


def test_a_claim_that_will_never_bind_fails_with_the_controllers_reason():
    said = an_event(
        "FailedBinding",
        "no persistent volumes available for this claim and no storage class is set",
        warns=False,
        kind="PersistentVolumeClaim",
        name="claim-ann",
        uid="other",
    )

    found = why(a_pod(**CLAIMS), said)

    assert found.kind is Kind.FAILED
    assert "has no storage class" in found.message


@pytest.mark.parametrize(
    ("reason", "message", "words"),
    [
        ("FailedCreatePodSandBox", "Failed to create pod sandbox: no such file", "cannot set up its network"),
        ("FailedMount", 'MountVolume.SetUp failed for volume "x": secret "y" not found', "a Secret or ConfigMap"),
        ("FailedMount", "Unable to attach or mount volumes: timed out", "cannot be attached"),
        (
            "FailedAttachVolume",
            "Multi-Attach error for volume: already used by pod",
            "still attached to another machine",
        ),
        (
            "FailedPrepareDynamicResources",
            "NodePrepareResources failed for ResourceClaim x: y",
            "cannot prepare its GPU",
        ),
    ],
)
def test_what_the_kubelet_tries_again_is_slow_at_first_and_then_a_failure(reason, message, words):
    pod = on_a_node(waiting("ContainerCreating"))

    first = why(pod, an_event(reason, message, count=1))
    third = why(pod, an_event(reason, message, count=3))

    assert (first.kind, first.message) == (Kind.STARTING, "Preparing your server")
    assert words in str(first.stuck)
    assert third.kind is Kind.FAILED
    assert words in third.message
    assert message in third.detail


def test_a_healthy_start_is_told_stage_by_stage_and_never_goes_back():
    placed = {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}]}
    running = {
        "phase": "Running",
        "containerStatuses": [{"name": "notebook", "state": {"running": {}}, "lastState": {}, "ready": False}],
    }
    ready = {**running, "conditions": [{"type": "Ready", "status": "True"}]}
    scheduled = an_event("Scheduled", warns=False, at="2026-11-21T21:18:00Z")
    pulling = an_event("Pulling", warns=False, at="2026-11-21T21:18:01Z")
    noise = an_event("MissingClusterDNS", "kubelet does not have ClusterDNS IP configured", at="2026-11-21T21:18:02Z")
    pulled = an_event("Pulled", warns=False, at="2026-11-21T21:19:00Z")

    stages = [
        why(a_pod()),
        why(on_a_node(placed), scheduled),
        why(on_a_node(waiting("ContainerCreating"), image="lab/x:1"), scheduled, pulling, noise),
        why(on_a_node(running), scheduled, pulling, pulled),
    ]

    assert [stage.message for stage in stages] == [
        "Waiting for a place in the cluster",
        "Preparing your server",
        "Fetching the image lab/x:1; the first time on a machine takes minutes",
        "Starting your server",
    ]
    assert [stage.percent for stage in stages] == sorted({stage.percent for stage in stages})
    assert all(stage.kind is Kind.STARTING and stage.stuck for stage in stages)
    assert NoGpus().why_waiting(on_a_node(ready), (), [a_node()]) is None


def test_a_failing_init_container_is_the_reason():
    pod = a_pod(
        node="node-1",
        initContainers=[{"name": "init", "image": "lab/init:1"}],
        status={
            "phase": "Pending",
            "initContainerStatuses": [
                {"name": "init", "state": {"waiting": {"reason": "ErrImageNeverPull", "message": "m"}}}
            ],
        },
    )

    assert "lab/init:1 is not on the machine" in why(pod).message


# Status bodies, as the API server sent them: code, message, error, words
REFUSALS = [
    (
        403,
        'pods "q2" is forbidden: exceeded quota: q, requested: requests.nvidia.com/gpu=1, used: '
        "requests.nvidia.com/gpu=2, limited: requests.nvidia.com/gpu=2",
        NoRoom,
        "All that servers may have on this cluster is in use (nvidia.com/gpu)",
    ),
    (
        403,
        'pods "q2" is forbidden: exceeded quota: q, requested: requests.memory=2Gi,requests.nvidia.com/gpu=1, used: '
        "requests.memory=128Mi,requests.nvidia.com/gpu=2, limited: requests.memory=1Gi,requests.nvidia.com/gpu=2",
        SetupError,
        "more than all servers together may have",
    ),
    (
        403,
        'persistentvolumeclaims "p2" is forbidden: exceeded quota: q, requested: persistentvolumeclaims=1, used: '
        "persistentvolumeclaims=1, limited: persistentvolumeclaims=1",
        NoRoom,
        "in use (persistentvolumeclaims)",
    ),
    (
        403,
        'pods "q0" is forbidden: failed quota: q: must specify requests.memory for: notebook',
        SetupError,
        "wants every",
    ),
    (
        403,
        'pods "x" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false',
        SetupError,
        "security rules",
    ),
    (
        403,
        'pods is forbidden: User "system:serviceaccount:samples:hub" cannot create resource "pods" in API group "" in '
        'the namespace "samples"',
        SetupError,
        "This hub may not create pods in the cluster",
    ),
    (
        403,
        'pods "q3" is forbidden: maximum memory usage per Container is 512Mi, but limit is 600Mi',
        SetupError,
        "more or less",
    ),
    (
        403,
        'pods "q5" is forbidden: unable to create new content in namespace x because it is being terminated',
        SetupError,
        "is being deleted",
    ),
    (
        403,
        'pods "x" is forbidden: error looking up service account samples/nosa: serviceaccount "nosa" not found',
        SetupError,
        "service account",
    ),
    (403, 'pods "x" is forbidden: pod rejected: RuntimeClass "norc" not found', SetupError, "names a class"),
    (403, 'admission webhook "vgpu.hami.io" denied the request: exceeding resource quota', NoRoom, "GPU memory"),
    (403, 'admission webhook "vgpu.hami.io" denied the request: container x is privileged', SetupError, "privileged"),
    (403, "no reason at all", SetupError, "refused to start"),
    (401, "Unauthorized", ProviderUnavailable, "access has expired"),
    (404, 'namespaces "nope" not found', SetupError, "namespace for servers is missing"),
    (409, 'object is being deleted: pods "x" already exists', LeaseConflict, "still being stopped"),
    (422, 'Pod "Bad_Name" is invalid: metadata.name: Invalid value', SetupError, "does not accept"),
    (429, "too many requests", ProviderUnavailable, "does not answer"),
    (500, "etcdserver: leader changed", ProviderUnavailable, "does not answer"),
    (503, "", ProviderUnavailable, "does not answer"),
    (418, "", StartFailed, "refused to start"),
]


@pytest.mark.parametrize(("code", "message", "error", "words"), REFUSALS)
def test_what_the_api_server_refuses_is_an_error_with_a_sentence(code, message, error, words):
    found = refusal(code, {"kind": "Status", "message": message, "code": code}, doing="create pods")

    assert type(found) is error
    assert words in found.message
    assert message in str(found)
    assert "create pods" in str(found)


@pytest.mark.parametrize(
    "body", [None, "", "<html>Bad gateway</html>", b"\xff\xfe", [], 3, '{"message": 7}', "[" * 9999]
)
@pytest.mark.parametrize("code", [400, 403, 404, 500])
def test_a_refusal_without_a_readable_body_has_a_sentence_too(code, body):
    assert refusal(code, body).message


def test_no_answer_at_all_may_be_tried_again():
    found = unreachable(TimeoutError("5 s"), doing="list pods")

    assert found.message == "The cluster does not answer. Try again in a few minutes."
    assert "TimeoutError: 5 s" in str(found)


@pytest.mark.parametrize(
    ("kind", "error"),
    [(Kind.NEVER, NeverFits), (Kind.FULL, NoRoom), (Kind.FAILED, StartFailed), (Kind.STARTING, StartFailed)],
)
def test_each_kind_is_an_error_of_its_own_with_the_clusters_words_for_the_log(kind, error):
    found = error_of(
        Waiting(kind=kind, message=Sentence("For the student."), detail="for the log"), log_tail="last line"
    )

    assert type(found) is error
    assert found.message == "For the student."
    assert str(found) == "for the log"
    assert found.log_tail == ("last line" if error is StartFailed else "")


def test_a_start_that_ran_out_of_time_says_what_it_was_waiting_for():
    slow = why(on_a_node(waiting("ContainerCreating"), image="lab/x:1"), an_event("Pulling", warns=False))

    assert "was still being fetched" in error_of(slow).message


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=200), st.text(max_size=200), st.integers(-1, 300), st.sampled_from(["waiting", "terminated"]))
def test_whatever_a_kubelet_says_there_is_a_sentence(reason, message, code, state):
    said = {"reason": reason, "message": message, "exitCode": code}
    status = {"phase": "Pending", "containerStatuses": [{"name": "notebook", "state": {state: said}}]}

    found = why(on_a_node(status), an_event(reason, message), an_event("Failed", message))

    assert found.message
    assert error_of(found).message
