"""What students and staff meet beside JupyterHub itself: services of their own process, behind its log-in."""
