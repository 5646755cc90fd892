"""Servers as virtual machines of their own on a Proxmox VE cluster. Nothing here is imported before it is used: a hub
without this provider needs no proxmoxer."""
