"""Faults of the shipped cluster files: each checker returns one sentence per fault, none for a good file.

Where a schema is published in an installed package it is taken: Ray's own for `ray up`, the Compose specification's,
Kubernetes' own (strict) for pods, claims and policies. Of KubeRay's RayCluster and RayJob none is packaged; the closed
schema below lists the fields of its reference (v1, KubeRay 1.5.1) that are used here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema
import kubernetes_validate
from check_jsonschema.builtin_schemas import get_builtin_schema

KUBERNETES = "1.33"

TEXT, WHOLE = {"type": "string"}, {"type": "integer", "minimum": 0}


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


POD = closed(["spec"], metadata=closed([], labels={"type": "object"}), spec={"type": "object"})
START = {"type": "object", "additionalProperties": TEXT}  # every value must be text, or the API server refuses it
CLUSTER_SPEC = closed(
    ["rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"],
    rayVersion=TEXT,
    authOptions=closed(["mode"], mode={"const": "token"}, secretName=TEXT),
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=closed(
        ["version"],
        version={"enum": ["v1", "v2"]},
        idleTimeoutSeconds=WHOLE,
        resources={"type": "object"},
        env={"type": "array"},
    ),
    headGroupSpec=closed(["rayStartParams", "template"], rayStartParams=START, template=POD),
    workerGroupSpecs={
        "type": "array",
        "minItems": 1,
        "items": closed(
            ["groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"],
            groupName=TEXT,
            replicas=WHOLE,
            minReplicas=WHOLE,
            maxReplicas=WHOLE,
            rayStartParams=START,
            template=POD,
        ),
    },
)
METADATA = closed(["name"], name={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 47})
KUBERAY = {
    "RayCluster": closed(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": "ray.io/v1"},
        kind=TEXT,
        metadata=METADATA,
        spec=CLUSTER_SPEC,
    ),
    "RayJob": closed(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": "ray.io/v1"},
        kind=TEXT,
        metadata=METADATA,
        spec=closed(
            ["entrypoint", "rayClusterSpec", "submitterPodTemplate"],
            entrypoint=TEXT,
            backoffLimit=WHOLE,
            shutdownAfterJobFinishes={"type": "boolean"},
            ttlSecondsAfterFinished=WHOLE,
            submitterPodTemplate=POD,
            rayClusterSpec=CLUSTER_SPEC,
            submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        ),
    ),
}


NO_METRICS = ["RAY_enable_metrics_collection=0", "AUTOSCALER_METRIC_PORT=-1", "DASHBOARD_METRIC_PORT=-1"]
"""Ray tells its metrics to everybody, token or not: every node some, a head others on two ports of its own."""


def ray_up_faults(config: dict[str, Any]) -> list[str]:
    """Faults of a file for `ray up`: Ray's validator, then what makes the cluster a closed one."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        validate_config(prepare_config(config))
    except (jsonschema.ValidationError, ValueError, NotImplementedError) as error:
        return [f"Ray refuses it: {str(error).splitlines()[0]}"]
    found = []
    starts = [
        command
        for key in ("head_start_ray_commands", "worker_start_ray_commands")
        for command in config.get(key, [])
        if "ray start" in command
    ]
    for command in starts:
        for needed in (
            "RAY_AUTH_MODE=token",
            "RAY_process_group_cleanup_enabled=1",
            "--disable-usage-stats",
            *(NO_METRICS if "--head" in command else NO_METRICS[:1]),
        ):
            if needed not in command:
                found.append(f"{needed} is missing in: {command}")
    heads = [command for command in starts if "--head" in command]
    if len(heads) != 1 or "--dashboard-host=127.0.0.1" not in heads[0]:
        found.append("expected one head, with --dashboard-host=127.0.0.1")
    token = {"~/.ray/auth_token": "~/.ray/auth_token"}
    alone = config["provider"]["type"] == "local" and not config["provider"]["worker_ips"]
    if not alone and config.get("file_mounts") != token:
        found.append(f"file_mounts: expected the token on every node, {token}")
    if not any("chmod 600 ~/.ray/auth_token" in command for command in config.get("setup_commands", [])):
        found.append("setup_commands: expected chmod 600 of the token")
    return found + open_hosts(config)


def compose_faults(compose: dict[str, Any]) -> list[str]:
    """Faults of a compose file: the specification's schema, then secrets and ports."""
    schema = get_builtin_schema("vendor.compose-spec")
    found = [
        f"{error.json_path}: {error.message[:200]}"
        for error in jsonschema.validators.validator_for(schema)(schema).iter_errors(compose)
    ]
    for name, service in compose.get("services", {}).items():
        found += [
            f"{name}: port {port!r} is published beyond 127.0.0.1"
            for port in service.get("ports", [])
            if not str(port).startswith("127.0.0.1:")
        ]
        found += [
            f"{name}: {key} is a secret in the environment; take a file"
            for key in service.get("environment", {})
            if key.endswith(("TOKEN", "KEY", "PASSWORD"))
        ]
        found += [f"{name}: {key} is missing" for key in ("healthcheck", "secrets", "cap_drop") if key not in service]
        if str(service.get("image", ":latest")).endswith(":latest") or ":" not in service["image"]:
            found.append(f"{name}: the image has no tag of its own")
        if service.get("network_mode") or service.get("privileged"):
            found.append(f"{name}: expected its own network and no privileges")
    found += [
        f"secrets.{name}: expected a file" for name, one in compose.get("secrets", {}).items() if "file" not in one
    ]
    return found


def kubernetes_faults(manifest: dict[str, Any]) -> list[str]:
    """Faults of a manifest: its schema, its pods by Kubernetes' own strict schema, and what confines them."""
    kind = manifest.get("kind", "")
    if kind not in KUBERAY:
        return _strict(manifest)
    validator = jsonschema.Draft202012Validator(KUBERAY[kind])
    found = [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(manifest)]
    if found:
        return found
    for name, pod in pods(manifest):
        metadata = {"name": name, **pod.get("metadata", {})}
        found += _strict({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"]})
        if pod.get("metadata", {}).get("labels", {}).get("app.kubernetes.io/part-of") != "locus":
            found.append(f"{name}: expected the label that the network policy selects")
        if not pod["spec"].get("securityContext", {}).get("runAsNonRoot"):
            found.append(f"{name}: expected runAsNonRoot")
        for container in pod["spec"]["containers"]:
            inner = container.get("securityContext", {})
            if inner.get("allowPrivilegeEscalation") is not False or inner.get("capabilities") != {"drop": ["ALL"]}:
                found.append(f"{name}: expected no privileges and no capabilities")
            if container["image"].rpartition(":")[2] in ("latest", container["image"]):
                found.append(f"{name}: the image has no tag of its own")
            found += [
                f"{name}: {variable['name']} is a secret in the manifest"
                for variable in container.get("env", [])
                if "TOKEN" in variable["name"] and "value" in variable
            ]
            settings = environment(container)
            found += [
                f"{name}: {setting} is missing"
                for setting in NO_METRICS
                if name != "submitter" and setting not in settings
            ]
    cluster = cluster_spec(manifest)
    port = NO_METRICS[1]  # the autoscaler's, which has a container of its own
    if cluster.get("enableInTreeAutoscaling") and port not in environment(cluster["autoscalerOptions"]):
        found.append(f"autoscalerOptions: {port} is missing")
    for group in cluster["workerGroupSpecs"]:
        if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            found.append(f"{group['groupName']}: expected minReplicas <= replicas <= maxReplicas")
    if cluster["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
        found.append('head: expected num-cpus "0"')
    return found + open_hosts(manifest)


def environment(container: dict[str, Any]) -> set[str]:
    """The variables that a container is given, as NAME=value."""
    return {f"{one['name']}={one.get('value')}" for one in container.get("env", [])}


def cluster_spec(manifest: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = manifest["spec"]
    return spec.get("rayClusterSpec", spec)


def pods(manifest: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, pod template) of every pod that a RayCluster or RayJob makes."""
    cluster = cluster_spec(manifest)
    yield "head", cluster["headGroupSpec"]["template"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group["template"]
    if "submitterPodTemplate" in manifest["spec"]:
        yield "submitter", manifest["spec"]["submitterPodTemplate"]


def _strict(resource: dict[str, Any]) -> list[str]:
    try:
        kubernetes_validate.validate(resource, KUBERNETES, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return [f"{resource.get('kind')}: {error.message[:200]}"]
    return []


def open_hosts(values: Any) -> list[str]:
    """Every text in which something is to listen for everybody."""
    if isinstance(values, dict):
        return [fault for value in values.values() for fault in open_hosts(value)]
    if isinstance(values, list):
        return [fault for value in values for fault in open_hosts(value)]
    return [f"0.0.0.0 in: {values}"] if isinstance(values, str) and "0.0.0.0" in values else []
