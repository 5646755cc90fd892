"""Servers as pods of a Kubernetes cluster, through the real KubeSpawner."""
