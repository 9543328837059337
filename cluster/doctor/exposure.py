"""Exposure of a Ray cluster: whether it requires the token, who can read it, and which ports are reachable."""

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
    """A port of this machine and the process that listens on it."""

    address: str
    port: int
    process: str

    def __str__(self) -> str:
        return f"{self.port} ({self.process})"

    def shows_metrics(self) -> bool:
        """Whether it serves unauthenticated metrics, as Ray does by default.

        All other pages require the token, except health checks and the empty page of the dashboard.
        """
        unspecified = ip_address(self.address.partition("%")[0]).is_unspecified
        try:
            return _status("127.0.0.1" if unspecified else self.address, self.port, "/metrics") == 200
        except (http.client.HTTPException, OSError):
            return False


def _status(host: str, port: int | None, path: str) -> int:
    """The status of an unauthenticated request; the port may be part of the host."""
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def exposure_findings() -> list[Finding]:
    """Findings about this machine, from inside a process of its Ray."""
    on = os.environ.get("RAY_AUTH_MODE") == "token"
    return [*token_findings(on), ports_finding(on, listening())]


def token_findings(on: bool) -> list[Finding]:
    """Whether this machine's Ray requires the token, and whether other users of the machine can read it."""
    if not on:
        return [Finding("token", "warn", "Ray on this node runs without authentication", TURN_ON)]
    if os.environ.get("RAY_AUTH_TOKEN"):
        return [Finding("token", "ok", "required; set in RAY_AUTH_TOKEN")]
    path = token_file()
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        return [Finding("token", "fail", f"required, but {path}: {error.strerror}", f"copy the head's token to {path}")]
    if mode & 0o077:
        return [
            Finding("token", "warn", f"required, but others can read {path} (mode {mode:04o})", f"chmod 600 {path}")
        ]
    return [Finding("token", "ok", f"required; only this user can read {path}")]


def ports_finding(on: bool, open_ports: list[OpenPort]) -> Finding:
    """Ray's ports that other machines can reach; without the token each gives access."""
    if not open_ports:
        return Finding("ports", "ok", "Ray listens on loopback only")
    seen = ", ".join(map(str, open_ports))
    if on and (exposed := [one for one in open_ports if one.shows_metrics()]):
        return Finding(
            "ports",
            "warn",
            f"unauthenticated metrics: {', '.join(map(str, exposed))}",
            "let only your own machines reach them, or start Ray everywhere with "
            "RAY_enable_metrics_collection=0 AUTOSCALER_METRIC_PORT=-1 DASHBOARD_METRIC_PORT=-1, as "
            "cluster/*.yaml do",
        )
    if on:
        return Finding("ports", "ok", f"beyond loopback, with the token: {seen}")
    return Finding(
        "ports", "fail", f"unauthenticated, open to everyone on the network: {seen}", f"stop this Ray now; {TURN_ON}"
    )


def listening() -> list[OpenPort]:
    """Ports beyond loopback that Ray's processes on this machine listen on, sorted."""
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
            continue  # exited meanwhile, or another user's: not our Ray
    return [found[port] for port in sorted(found)]


def is_rays(name: str, command: list[str]) -> bool:
    """Whether a process belongs to Ray."""
    joined = " ".join(command)
    return name in RAYS or joined.startswith("ray::") or "/site-packages/ray/" in joined or "-m ray." in joined


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach the address; `::` and 0.0.0.0 are reachable by everyone."""
    found = ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)


def dashboard_finding(address: str) -> Finding:
    """Whether the dashboard, which accepts jobs, rejects unauthenticated requests; call on the node that it runs on."""
    try:
        status = _status(address, None, "/api/version")
    except OSError as error:
        return Finding(
            "dashboard",
            "warn",
            f"{address} does not respond: {error}",
            "jobs cannot be submitted; check that ray[default] is installed on the head",
        )
    if status == 401:
        return Finding("dashboard", "ok", f"{address} rejects unauthenticated requests (401)")
    return Finding(
        "dashboard",
        "warn",
        f"{address} is unauthenticated (status {status}): anyone who reaches it can run any code",
        TURN_ON,
    )
