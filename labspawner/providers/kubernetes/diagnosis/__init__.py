"""What `labspawner doctor` looks at in a cluster: rights, nodes, cards, disks, and a server that is tried out dry."""

from labspawner.providers.kubernetes.diagnosis.cluster import Subject, diagnose

__all__ = ["Subject", "diagnose"]
