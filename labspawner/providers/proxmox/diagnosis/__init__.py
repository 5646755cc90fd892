"""What `labspawner doctor` looks at in a Proxmox VE cluster: rights, quorum, nodes, templates, storages, ids, addresses."""

from labspawner.providers.proxmox.diagnosis.asking import wants_of, who_asks
from labspawner.providers.proxmox.diagnosis.cluster import Subject, Wanted, diagnose

__all__ = ["Subject", "Wanted", "diagnose", "wants_of", "who_asks"]
