"""Who could get into a Ray cluster: whether it asks for the token, who can read it, and what listens for others."""

from __future__ import annotations

import http.client
import os
import stat
from dataclasses import dataclass
from ipaddress import ip_address

import psutil

from cluster.auth import token_file
from cluster.doctor.finding import Finding

TIMEOUT = 15.0
RAYS = ("gcs_server", "raylet")
TURN_ON = (
    "run `ray get-auth-token --generate` once, copy ~/.ray/auth_token to every node (mode 0600), and start Ray "
    "everywhere with RAY_AUTH_MODE=token, as cluster/*.yaml do"
)


@dataclass(frozen=True)
class OpenPort:
    """A port of this machine, and the name of a process that listens on it."""

    address: str
    port: int
    process: str

    def __str__(self) -> str:
        return f"{self.port} ({self.process})"

    def shows_metrics(self) -> bool:
        """Whether it shows metrics to somebody without a token, as Ray does unless it is told not to.

        Its other pages ask for the token, but for health checks and the empty page of the dashboard.
        """
        everybody = ip_address(self.address.partition("%")[0]).is_unspecified
        try:
            return _status("127.0.0.1" if everybody else self.address, self.port, "/metrics") == 200
        except (http.client.HTTPException, OSError):
            return False


def _status(host: str, port: int | None, path: str) -> int:
    """What a server answers to somebody without a token; the port may be a part of the host."""
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def exposure_findings() -> list[Finding]:
    """Lines about this machine, seen from a process of its Ray."""
    on = os.environ.get("RAY_AUTH_MODE") == "token"
    return [*token_findings(on), ports_finding(on, listening())]


def token_findings(on: bool) -> list[Finding]:
    """Whether this machine's Ray asks for the token, and whether others on the machine can read it."""
    if not on:
        return [Finding("token", "warn", "Ray on this node runs without authentication", TURN_ON)]
    if os.environ.get("RAY_AUTH_TOKEN"):
        return [Finding("token", "ok", "asked for; held in RAY_AUTH_TOKEN")]
    path = token_file()
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        return [
            Finding("token", "fail", f"asked for, but {path}: {error.strerror}", f"copy the head's token to {path}")
        ]
    if mode & 0o077:
        return [
            Finding("token", "warn", f"asked for, but others can read {path} (mode {mode:04o})", f"chmod 600 {path}")
        ]
    return [Finding("token", "ok", f"asked for; {path} is ours alone")]


def ports_finding(on: bool, open_ports: list[OpenPort]) -> Finding:
    """Ports of Ray that other machines can reach; without the token each is a way in."""
    if not open_ports:
        return Finding("ports", "ok", "Ray listens on loopback only")
    seen = ", ".join(map(str, open_ports))
    if on and (frank := [one for one in open_ports if one.shows_metrics()]):
        return Finding(
            "ports",
            "warn",
            f"metrics for everybody, without the token: {', '.join(map(str, frank))}",
            "let only your own machines reach them, or start Ray everywhere with "
            "RAY_enable_metrics_collection=0 AUTOSCALER_METRIC_PORT=-1 DASHBOARD_METRIC_PORT=-1, as "
            "cluster/*.yaml do",
        )
    if on:
        return Finding("ports", "ok", f"beyond loopback, with the token: {seen}")
    return Finding(
        "ports", "fail", f"open to everybody who reaches this machine: {seen}", f"stop this Ray now; {TURN_ON}"
    )


def listening() -> list[OpenPort]:
    """Ports that processes of Ray on this machine listen on beyond loopback, in their order."""
    found: dict[int, OpenPort] = {}
    for process in psutil.process_iter():
        try:
            if not is_rays(process.name(), process.cmdline()):
                continue
            for connection in process.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN and not is_loopback(connection.laddr.ip):
                    port = connection.laddr.port
                    found.setdefault(port, OpenPort(connection.laddr.ip, port, process.name()))
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue  # gone meanwhile, or another user's: its Ray is not ours
    return [found[port] for port in sorted(found)]


def is_rays(name: str, command: list[str]) -> bool:
    """Whether a process is one of Ray's own or works for it."""
    joined = " ".join(command)
    return name in RAYS or joined.startswith("ray::") or "/site-packages/ray/" in joined or "-m ray." in joined


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches the address; `::` and 0.0.0.0 mean everybody."""
    found = ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)


def dashboard_finding(address: str) -> Finding:
    """Whether the dashboard, which takes jobs, refuses who shows no token. To be asked on the node that it runs on."""
    try:
        status = _status(address, None, "/api/version")
    except OSError as error:
        return Finding(
            "dashboard",
            "warn",
            f"{address} does not answer: {error}",
            "jobs cannot be submitted; is ray[default] installed on the head?",
        )
    if status == 401:
        return Finding("dashboard", "ok", f"{address} refuses who shows no token (401)")
    return Finding(
        "dashboard", "warn", f"{address} answers {status} to anybody: who reaches it can run any code", TURN_ON
    )
