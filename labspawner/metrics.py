"""Prometheus metrics, in the default registry: JupyterHub serves them at `/hub/metrics` beside its own."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

STARTS = Counter(
    "labspawner_starts",
    "Server starts, by how they ended and the stage they ended in",
    ["provider", "profile", "outcome", "stage"],
)
READY_SECONDS = Histogram(
    "labspawner_time_to_ready_seconds",
    "From the request to a server that answers, waiting in line included",
    ["provider", "profile"],
    buckets=(0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800),
)
LEASES = Gauge("labspawner_leases", "Live leases", ["provider", "profile", "phase"])
CULLS = Counter("labspawner_culls", "Servers stopped by the culler", ["provider", "profile", "reason"])
RECONCILED = Counter("labspawner_reconciler_actions", "What the reconciler did", ["provider", "action"])
RECONCILE_FAILURES = Counter("labspawner_reconciler_failures", "Passes that could not list a provider", ["provider"])
PVE_REQUESTS = Counter("labspawner_pve_requests", "Requests sent to the API of Proxmox VE", ["method", "route"])
