"""`labspawner-guest`: what a VM template carries so that a Jupyter server can be started in the student's VM.

`labspawner_guest.py` is ONE stand-alone file for Python 3.8 and later, standard library only, that an instructor puts
into a template, owned by root and executable, at `HELPER`:

    labspawner vm guest-helper > /usr/local/sbin/labspawner-guest && chmod 755 /usr/local/sbin/labspawner-guest

It runs as root in the guest. The hub calls it through the guest agent (`[HELPER, verb, ...]`, always its full path: PVE
answers an unknown program with a broken connection). Secrets come on its standard input alone, never on a command line;
it prints none, and takes the token out of the log lines that it shows. Windows guests have no helper: they are desktops.

Every verb but `logs`, `unit`, `call-home-unit` and `run` prints ONE line of JSON, `{"protocol": 1, "ok": true, ...}`, and
exits with 0 when ok, 1 when it refuses, 2 for a wrong command line. A refusal: `{"protocol": 1, "ok": false, "reason": CODE,
"message": SENTENCE}`; CODE is one of `REASONS`. Unknown keys are to be ignored on both sides; another protocol than 1 is
refused.

configure
    Reads standard input (at most 64 KiB, UTF-8):
        {"protocol": 1,
         "user": "student",            the account that runs the server; exists (cloud-init's), and is not root
         "command": ["jupyterhub-singleuser", ...],   no secrets; a bare name is looked for in the environment's PATH, in
                                       `path` of /etc/labspawner/guest.json ({"path": [FOLDER, ...]}), then where venvs and
                                       programs usually are
         "environment": {"JUPYTERHUB_API_TOKEN": ..., "JUPYTERHUB_SERVICE_URL": "http://0.0.0.0:8888/user/..."},
         "home": "/home/student",      optional: the server's HOME and working folder; else the account's
         "lease": "...",               optional: `status` says it back, so that one knows whose server runs
         "when_ended": "stay",         optional; "poweroff": a minute after the server ended without having been told to, the
                                       VM goes down, so that the hub sees it; `configure` and `stop` take that back
         "files": {"JUPYTERHUB_SSL_KEYFILE": "-----BEGIN ..."}}   optional: each becomes a 0600 file of the user's, and the
                                       variable of that name its path
    keeps it in /run/labspawner/server.json (root's, 0600, gone with a reboot), starts `UNIT` or, when anything of it differs
    from what runs, replaces the old server, and returns before the server listens:
        {"protocol": 1, "ok": true, "lease": "...", "state": "active", "started": true, "replaced": false, "port": 8888}
    started: a server was started by this call; replaced: another one was ended for it.
status
        {"protocol": 1, "ok": true, "at": INSTANT, "lease": "..." or null, "user": "..." or null, "boot_id": "..." or null,
         "uptime_s": 12.5,
         "server": {"state": STATE, "pid": 123, "exit_code": null, "port": 8888, "listening": true},
         "versions": {"python": "3.11.2", "jupyterhub": "6.1.1", "jupyterlab": "4.4.1", "labspawner": null},
         "cloud_init": "done", "running", "error", "degraded", "disabled", "not started" or "absent",
         "activity": {"last_activity": INSTANT, "kernels": 2, "busy": 1, "terminals": 0, "connections": 3},
         "sessions": [{"user": "...", "where": "tty1", "remote": "10.0.0.9" or "", "last_input": INSTANT or null}],
         "last_input": INSTANT or null,    the newest of the sessions'
         "cpu": {"load_1m": 0.5, "cores": 4}}
    STATE is systemd's: "active", "activating", "deactivating", "failed" (it died; exit_code says how, 128 + the signal) or
    "inactive" (stopped, ended with 0, or never configured: then lease is null). Where something is not known there is null.
    activity: what the server itself says (its /api/status, /api/kernels and /api/terminals, with its own token, which is no
    use of it), all null where it does not answer. INSTANT is ISO 8601 with its time zone.
logs N
    The last N (1 to 1000) lines of the server's log as plain text.
stop
    Ends the server and forgets the environment: {"protocol": 1, "ok": true, "stopped": true or false}
check
    What a good template has; `ok` is false, and the exit code 1, when a level is "error":
        {"protocol": 1, "ok": true, "findings": [{"level": "ok", "warning" or "error", "code": one of CHECKS,
         "message": SENTENCE, "hint": SENTENCE or ""}]}
unit
    The text of the systemd unit; `configure` installs it for this boot where the template has none.
run
    What the unit runs: becomes the user, then the server. (`ended` is what the unit runs after it.)
call-home
    The fallback where no guest agent can be used: asks the hub, once and with a nonce, for what `configure` reads, and does
    it, when cloud-init is through. Nonce and url are in the user data that cloud-init keeps for root, as a password that
    none fits: `password: $6$labspawner$NONCE$URL`, the url in base64url; the hub writes that. What stands in
    /etc/labspawner/call-home.json goes first: {"url": "http://hub:8081/hub/labspawner/guest", "nonce": "...", "ca_file": ""};
    a nonce that is in neither is SMBIOS' serial number `labspawner:NONCE`. It sends, from its own address,
        POST {url}/call-home
        {"protocol": 1, "nonce": "...", "uuid": SMBIOS' uuid or "", "hostname": "...", "addresses": ["10.0.0.5"],
         "versions": {"jupyterhub": "6.1.1", ...}}
    and understands: 200 with the JSON of `configure` (the hub forgets the nonce before it answers), 202 or 503 "not yet" (it
    asks again, as Retry-After says); any other status is final. It gives up after ten minutes.
call-home-unit
    The text of a systemd unit that calls home at each boot, for a template without a guest agent.

Where there is no systemd, or LABSPAWNER_GUEST_INIT=process says so, the helper keeps the server as a process of its own
(log and state in /run/labspawner): for containers and for the test double. LABSPAWNER_GUEST_ROOT=FOLDER puts all paths
below a folder and leaves accounts alone; it is for tests, and so are, with it, LABSPAWNER_GUEST_ADDRESS (from which it calls
home) and LABSPAWNER_GUEST_VARIABLES (JSON: more variables of the server).
"""

from __future__ import annotations

from pathlib import Path

PROTOCOL = 1
HELPER = "/usr/local/sbin/labspawner-guest"
UNIT = "labspawner-server.service"
MAX_INPUT_BYTES = 64 * 1024  # what the guest agent takes on standard input

REASONS = frozenset(
    {
        "bad_input",  # no JSON, or a field that is not what the protocol says
        "protocol",  # another protocol than 1: helper and hub are of different ages
        "no_user",  # there is no such account yet, or it is root
        "no_command",  # the template has no such program
        "start_failed",  # systemd refused, or the process could not be made
        "not_root",
        "no_nonce",  # call-home has nothing to show
        "hub_refused",  # call-home: the nonce was used, or is none
        "hub_silent",  # call-home: nobody answered in time
        "usage",
    }
)
CHECKS = (
    "root",  # runs as root
    "helper",  # at its path, owned by root, writable by nobody else
    "python",  # 3.8 or later
    "systemd",
    "guest-agent",  # installed and enabled
    "guest-exec",  # not blocked by the agent's own list
    "cloud-init",  # installed
    "cloud-init-clean",  # no instance of the template's own first boot is left
    "machine-id",  # empty, so that each clone makes its own
    "ssh-host-keys",  # absent, so that each clone makes its own
    "jupyterhub",  # jupyterhub-singleuser is there, with its version
    "jupyterlab",
    "extension",  # labspawner's own reports, else idleness is only guessed
    "apt-daily",  # no unattended upgrade in the first minutes of a lesson
    "disk-space",
)


def helper_source() -> str:
    """The text of the helper, to be put into a template."""
    return Path(__file__).with_name("labspawner_guest.py").read_text(encoding="utf-8")
