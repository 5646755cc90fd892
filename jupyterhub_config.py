# The hub's configuration. It works as it stands: `make run` (or `labspawner up`) starts a demo hub on this machine
# alone. To make it yours, go through the sections; each says what to change and why. JupyterHub's own reference:
# https://jupyterhub.readthedocs.io/en/stable/reference/config-reference.html

import os
from pathlib import Path

from labspawner import wiring

c = get_config()

HERE = Path(__file__).parent
DATA = Path(os.environ.get("LABSPAWNER_DATA_DIR", HERE / ".labspawner")).absolute()
DATA.mkdir(parents=True, exist_ok=True, mode=0o700)

# -- Address -----------------------------------------------------------------------------------------------------------
# The demo stays on loopback. For a lab, put a TLS proxy in front, or set c.JupyterHub.ssl_key and ssl_cert, and bind
# to the address that students reach.
c.JupyterHub.bind_url = f"http://127.0.0.1:{os.environ.get('LABSPAWNER_PORT', '8000')}"
c.JupyterHub.hub_port = int(os.environ.get("LABSPAWNER_HUB_PORT", "0")) or 8081
c.ConfigurableHTTPProxy.command = wiring.proxy_command()
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{os.environ.get('LABSPAWNER_PROXY_API_PORT', '8001')}"
c.ConfigurableHTTPProxy.pid_file = str(DATA / "proxy.pid")

# -- Who may log in ----------------------------------------------------------------------------------------------------
# Five demo accounts with one password (printed by `labspawner up`). This authenticator refuses to start on an address
# that another machine can reach. For a lab, take your university's log-in, for example:
#   c.JupyterHub.authenticator_class = "oauthenticator.generic.GenericOAuthenticator"
#   c.GenericOAuthenticator.manage_groups = True      # groups named course-<slug> make somebody a member of a course
DEMO = True
if DEMO:
    c.JupyterHub.authenticator_class = "labspawner-demo"
    c.JupyterHub.load_groups = {
        "course-py101": {"users": ["student1", "student2", "student3"]},
        "course-py101-instructors": {"users": ["teacher"]},
        "course-dl101": {"users": ["student1", "student2"]},
        "course-dl101-instructors": {"users": ["teacher"]},
        "instructors": {"users": ["teacher"]},  # may make courses of their own in the console
    }

# -- Courses -----------------------------------------------------------------------------------------------------------
# One YAML file per course; `labspawner profiles lint` checks them, `labspawner profiles schema` prints what is allowed.
# A file may be changed while the hub runs. A course is for the members of the group course-<slug>.
c.Labspawner.courses_dir = os.environ.get("LABSPAWNER_COURSES_DIR", str(HERE / "courses"))

# -- Providers: what hosts the servers ---------------------------------------------------------------------------------
# `local` starts each server in the best sandbox that this machine allows; the log says which, and docs/local.md what
# it protects against. Servers are at unix sockets where this hub and the proxy above can reach those.
c.Labspawner.providers = {
    "local": {"unix_sockets": wiring.reach_sockets(c.ConfigurableHTTPProxy.command)},
    # A virtual machine per student on Proxmox VE; docs/proxmox.md says how its token is made:
    # "proxmox": {
    #     "endpoints": "https://pve1.lab.example:8006, https://pve2.lab.example:8006",
    #     "token_file": "/etc/labspawner/pve-token",
    #     "ca_file": "/etc/labspawner/pve-root-ca.pem",
    #     "pool": "labs",
    #     "hub_connect_url": "http://10.20.0.1:8081",
    #     "addresses": {"default": "10.20.0.50-10.20.0.249/24 gw 10.20.0.1 dns 10.20.0.1"},
    # },
    # Any existing JupyterHub spawner can be a provider, under a name of your own:
    # "docker": {"kind": "adapter", "spawner_class": "dockerspawner.DockerSpawner", "config": {"image": "lab/scipy"}},
}
# Marks everything that this hub makes on a host. Two hubs that share a host need different ids, for their whole life;
# left out, one is made and kept in the data folder.
# c.Labspawner.hub_id = "lab-hub"

# -- Databases ---------------------------------------------------------------------------------------------------------
# SQLite is enough for one hub and a few hundred students. For PostgreSQL, give each its own database:
#   c.JupyterHub.db_url = "postgresql+psycopg://hub:...@db/jupyterhub"
#   c.Labspawner.database_url = "postgresql+psycopg://hub:...@db/labspawner"
c.Labspawner.data_dir = str(DATA)
c.JupyterHub.db_url = f"sqlite:///{DATA / 'jupyterhub.sqlite'}"
c.JupyterHub.cookie_secret_file = str(DATA / "cookie_secret")

# -- Idle servers ------------------------------------------------------------------------------------------------------
# When a server is idle or too old is said per profile in its course file (`idle:` and `limits:`). The culler looks at
# all servers this often. To only see what it would do: wiring.run_culler(c, dry_run=True).
c.Labspawner.culler_interval_s = int(os.environ.get("LABSPAWNER_CULLER_INTERVAL_S", "60"))
wiring.run_culler(c)

# -- Desktops ----------------------------------------------------------------------------------------------------------
# Where a provider has machines with a screen (proxmox), students open it in the browser: docs/desktop.md.
wiring.run_desktop(c)

# -- Console -----------------------------------------------------------------------------------------------------------
# Where instructors write their courses and run a class, at /services/labspawner/: docs/console.md. Courses may be made by
# administrators, and by the members of these groups.
c.Labspawner.console_creators = ["instructors"]
wiring.run_console(c)

# -- Restarts ----------------------------------------------------------------------------------------------------------
# A restart of the hub leaves all servers running, and finds them again.
c.JupyterHub.cleanup_servers = False

# -- Plug labspawner into JupyterHub: its spawner, its pages, its reconciler -------------------------------------------
wiring.wire(c, demo=DEMO)
