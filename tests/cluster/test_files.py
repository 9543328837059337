"""Cluster files, manifests and images are valid by their own schemas, closed, and agree with `make install`."""

import copy
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.placement import MOST
from configs.judges import ServeConfig
from configs.load import parse_command_line
from locus.version import __version__
from tests.cluster.manifests import NO_METRICS, cluster_spec, compose_faults, kubernetes_faults, pods, ray_up_faults

ROOT = Path(__file__).parents[2]
RAY_UP = sorted((ROOT / "cluster").glob("*.yaml"))
KUBERNETES = sorted((ROOT / "cluster" / "kubernetes").glob("*.yaml"))
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile.*"))
COMPOSE = ROOT / "docker" / "compose.yaml"


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def changed(values: Any, path: str, value: Any) -> Any:
    """A copy with the value at a dotted path set, or removed for None."""
    result = copy.deepcopy(values)
    *above, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    target = result
    for part in above:
        target = target[part]
    if value is None:
        del target[last]
    else:
        target[last] = value
    return result


def pinned(name: str) -> str:
    return re.search(rf"^{name}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]


def test_the_files_are_there():
    assert [path.stem for path in RAY_UP] == ["gpu", "local", "onprem"]
    assert {path.stem for path in KUBERNETES} == {"networkpolicy", "raycluster", "rayjob", "storage"}
    assert {path.suffix for path in DOCKERFILES} == {".trainer", ".judge"}


@pytest.mark.parametrize("path", RAY_UP, ids=lambda path: path.name)
def test_ray_accepts_the_cluster_and_it_is_closed(path):
    assert ray_up_faults(load(path)) == []


@pytest.mark.parametrize(
    ("where", "value", "fault"),
    [
        ("surplus", 1, "Ray refuses it"),
        ("provider/type", "awz", "Ray refuses it"),
        ("available_node_types/rollout/max_workers", "many", "Ray refuses it"),
        ("max_workers", 1, "Ray refuses it"),
        ("file_mounts", None, "expected the token on every node"),
        ("setup_commands", [], "chmod 600"),
        ("worker_start_ray_commands", ["ray start --address=$RAY_HEAD_IP:6379"], "RAY_AUTH_MODE=token is missing"),
        ("worker_start_ray_commands", ["ray start --address=$RAY_HEAD_IP:6379"], "RAY_enable_metrics_collection=0 is"),
        ("head_start_ray_commands", ["ray start --head"], "DASHBOARD_METRIC_PORT=-1 is missing"),
        ("head_start_ray_commands", ["RAY_AUTH_MODE=token ray start --head --dashboard-host=0.0.0.0"], "0.0.0.0"),
    ],
)
def test_the_check_of_cluster_files_sees_a_doctored_one(where, value, fault):
    assert any(fault in found for found in ray_up_faults(changed(load(ROOT / "cluster/gpu.yaml"), where, value)))


def test_the_aws_cluster_has_a_kind_of_machine_for_each_role():
    config = load(ROOT / "cluster/gpu.yaml")
    kinds = config["available_node_types"]
    assert set(kinds) == {"head", "learner", "rollout", "judge"}
    for role in ("learner", "rollout", "judge"):
        assert kinds[role]["resources"][role] == 1 and kinds[role]["resources"]["GPU"] >= 1
        assert 0 <= kinds[role]["min_workers"] <= kinds[role]["max_workers"] >= 1
    assert config["max_workers"] == sum(kind["max_workers"] for kind in kinds.values())
    assert "judge" in kinds["judge"]["docker"]["worker_image"]
    reached = [
        rule["CidrIp"] for entry in config["provider"]["security_group"]["IpPermissions"] for rule in entry["IpRanges"]
    ]
    assert reached == ["203.0.113.7/32"]  # an example's address, unassigned


def grown(kinds: list[tuple[int, dict[str, float]]]) -> dict[str, float]:
    """What the head must say about kinds of machines, each with how many there may be and what one of them has."""
    names = {name for _, has in kinds for name in has} - {"CPU"}
    return {f"{MOST}{name}": sum(count * has.get(name, 0) for count, has in kinds) for name in names}


def test_the_aws_head_says_what_its_cluster_may_grow_to():
    kinds = load(ROOT / "cluster/gpu.yaml")["available_node_types"]
    head = kinds.pop("head")["resources"]
    expected = grown([(kind["max_workers"], kind["resources"]) for kind in kinds.values()])
    assert head == {"CPU": 0, **expected}
    assert set(expected) == {"most:GPU", "most:learner", "most:rollout", "most:judge"}


@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_the_heads_of_kubernetes_say_what_their_clusters_may_grow_to(name):
    def custom(group: dict[str, Any]) -> dict[str, float]:
        return json.loads(json.loads(group["rayStartParams"]["resources"]))  # quoted for the shell

    def has(group: dict[str, Any]) -> dict[str, float]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        return {**custom(group), "GPU": int(limits["nvidia.com/gpu"])}

    cluster = cluster_spec(load(ROOT / f"cluster/kubernetes/{name}.yaml"))
    assert custom(cluster["headGroupSpec"]) == grown(
        [(group["maxReplicas"], has(group)) for group in cluster["workerGroupSpecs"]]
    )


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_kubernetes_manifests_are_valid_and_confined(path):
    assert kubernetes_faults(load(path)) == []


@pytest.mark.parametrize(
    ("name", "where", "value", "fault"),
    [
        ("raycluster", "spec/authOptions", None, "authOptions"),
        ("raycluster", "spec/authOptions/mode", "disabled", "'token' was expected"),
        ("raycluster", "spec/gcsFaultTolerance", {}, "gcsFaultTolerance"),
        ("raycluster", "spec/autoscalerOptions/env", None, "autoscalerOptions: AUTOSCALER_METRIC_PORT=-1 is missing"),
        (
            "raycluster",
            "spec/headGroupSpec/template/spec/containers/0/env",
            [],
            "head: DASHBOARD_METRIC_PORT=-1 is missing",
        ),
        (
            "rayjob",
            "spec/rayClusterSpec/workerGroupSpecs/0/template/spec/containers/0/env",
            [],
            "RAY_enable_metrics_collection=0 is missing",
        ),
        ("raycluster", "spec/headGroupSpec/rayStartParams/num-cpus", 0, "is not of type 'string'"),
        ("raycluster", "spec/headGroupSpec/rayStartParams/num-cpus", "4", 'expected num-cpus "0"'),
        ("raycluster", "spec/headGroupSpec/rayStartParams/dashboard-host", "0.0.0.0", "0.0.0.0"),
        ("raycluster", "spec/workerGroupSpecs/1/maxReplicas", 0, "minReplicas <= replicas"),
        ("raycluster", "spec/workerGroupSpecs/1/template/spec/containers/0/imagePolicy", "Always", "imagePolicy"),
        ("raycluster", "spec/workerGroupSpecs/1/template/spec/securityContext", {}, "runAsNonRoot"),
        ("raycluster", "spec/workerGroupSpecs/1/template/metadata", None, "network policy selects"),
        ("rayjob", "spec/entrypoint", None, "entrypoint"),
        ("rayjob", "spec/submissionMode", "Mail", "is not one of"),
        ("networkpolicy", "spec/ingres", [], "ingres"),
        ("storage", "spec/accessModes", "ReadWriteMany", "accessModes"),
    ],
)
def test_the_check_of_manifests_sees_a_doctored_one(name, where, value, fault):
    found = kubernetes_faults(changed(load(ROOT / f"cluster/kubernetes/{name}.yaml"), where, value))
    # Kubernetes' schema names the value, not always its key.
    assert found and (any(fault in one for one in found) or name in ("networkpolicy", "storage"))


def test_manifests_run_the_pinned_ray_on_our_images():
    for path in KUBERNETES:
        manifest = load(path)
        if manifest["kind"] in ("RayCluster", "RayJob"):
            assert cluster_spec(manifest)["rayVersion"] == pinned("ray")
            images = {container["image"] for _, pod in pods(manifest) for container in pod["spec"]["containers"]}
            assert images <= {f"registry.example.com/locus-{kind}:{__version__}" for kind in ("trainer", "judge")}
    groups = {group["groupName"]: group for group in cluster_spec(load(KUBERNETES[1]))["workerGroupSpecs"]}
    assert set(groups) == {"learner", "rollout", "judge"}
    for role, group in groups.items():
        assert group["rayStartParams"]["resources"] == f'"{{\\"{role}\\": 1}}"'


def test_the_job_of_the_manifest_resumes_and_its_flags_are_flags():
    words = shlex.split(load(ROOT / "cluster/kubernetes/rayjob.yaml")["spec"]["entrypoint"])
    assert words[:4] == ["python", "-m", "cluster.resume_or_start", "--"]
    assert parse_command_line(words[4:]).config.folder == "/shared/runs"


def test_compose_is_valid_and_nothing_is_published():
    compose = load(COMPOSE)
    assert compose_faults(compose) == []
    assert set(compose["services"]) == {"head", "worker", "judge"}
    for name in ("head", "worker"):
        service = compose["services"][name]
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert {f"{name}={value}" for name, value in service["environment"].items()} >= {*NO_METRICS}
        assert service["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_auth_token"
        assert "ray_auth_token" in service["secrets"]
    assert "--dashboard-host=127.0.0.1" in compose["services"]["head"]["command"]


@pytest.mark.parametrize(
    ("where", "value", "fault"),
    [
        ("services/head/comand", "ray", "comand"),
        ("services/head/ports", ["8265:8265"], "beyond 127.0.0.1"),
        ("services/head/ports", ["0.0.0.0:8265:8265"], "beyond 127.0.0.1"),
        ("services/head/environment/RAY_AUTH_TOKEN", "abc", "a secret in the environment"),
        ("services/worker/healthcheck", None, "healthcheck is missing"),
        ("services/worker/image", "locus-trainer", "no tag"),
        ("services/worker/image", "locus-trainer:latest", "no tag"),
        ("services/worker/network_mode", "host", "its own network"),
        ("secrets/judge_key", {"environment": "KEY"}, "expected a file"),
    ],
)
def test_the_check_of_compose_sees_a_doctored_file(where, value, fault):
    assert any(fault in found for found in compose_faults(changed(load(COMPOSE), where, value)))


def test_the_judge_of_compose_is_the_one_that_a_run_starts(monkeypatch):
    from rewards.vllm import command

    monkeypatch.setattr(command, "interpreter", lambda python: f"/opt/locus/{python}")
    expected = command.command(ServeConfig(replicas=1, path="x"), "/models/judge", "judge", "0.0.0.0", 8000)
    assert shlex.split(load(COMPOSE)["services"]["judge"]["command"]) == expected
    shown = re.search(r"^CMD (\[.+?\])$", (ROOT / "docker/Dockerfile.judge").read_text(), re.MULTILINE | re.DOTALL)[1]
    assert yaml.safe_load(shown.replace("\\\n", "\n")) == [
        "127.0.0.1" if word == "0.0.0.0" else word for word in expected
    ]
    allowed = ROOT / "rewards/vllm/inside" / f"{expected[-1].partition('.')[0]}.py"
    assert (
        allowed.exists()
        and "PYTHONPATH=/opt/locus/rewards/vllm/inside" in (ROOT / "docker/Dockerfile.judge").read_text()
    )


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_are_pinned_unprivileged_and_watched(path):
    text = path.read_text(encoding="utf-8")
    base, target = {
        ".trainer": (r"python:3\.11\.\d+-slim-bookworm", "install"),
        ".judge": (rf"locus-trainer:{re.escape(__version__)}", "judge"),
    }[path.suffix]
    assert re.search(rf"^ARG \w+={base}$", text, re.MULTILINE)
    instructions = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    assert re.search(rf"^RUN make {target} ", instructions, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK ", instructions, re.MULTILINE) and "\nADD " not in instructions
    assert not re.search(r"(TOKEN|KEY|PASSWORD)=\S", instructions)
    users = re.findall(r"^USER (\S+)", instructions, re.MULTILINE)
    assert users[-1:] == (["locus"] if path.suffix == ".trainer" else [])  # the judge's image keeps the trainer's
    ran = re.findall(r"^RUN (.+)", instructions, re.MULTILINE)
    assert all("pip install" not in command for command in ran)  # only what make does


def test_images_install_the_environments_that_make_makes():
    makefile = (ROOT / "Makefile").read_text()
    for target, constraints in (("install", "constraints.txt"), ("judge", "constraints-judge.txt")):
        rule = makefile.partition("$(STAMP):" if target == "install" else "$(JUDGE_STAMP):")[2].partition("\n\n")[0]
        assert constraints in rule.splitlines()[0] and f"--constraint {constraints}" in rule
    assert re.search(r"^VENV := \.venv$", makefile, re.MULTILINE)
    assert "/opt/locus/.venv/bin" in (ROOT / "docker/Dockerfile.trainer").read_text()
    assert ServeConfig().python == ".venv-judge/bin/python"


def test_what_make_needs_reaches_the_images_and_secrets_do_not():
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert {"docker/secrets", ".git", ".venv", ".venv-judge", "runs", ".env"} <= set(ignored)
    needed = {
        "Makefile",
        "pyproject.toml",
        "constraints.txt",
        "constraints-judge.txt",
        "README.md",
        "LICENSE",
        "docker/entrypoint.sh",
    }
    assert needed & set(ignored) == set() and all((ROOT / name).exists() for name in needed)
    assert "docker/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize("content", [None, "abc", ""])
def test_the_entrypoint_hands_the_key_over_and_refuses_an_empty_one(tmp_path, content):
    script = (ROOT / "docker/entrypoint.sh").read_text().replace("/run/secrets", str(tmp_path))
    if content is not None:
        (tmp_path / "judge_key").write_text(content)
    show = ["sh", "-c", script, "entrypoint", "sh", "-c", 'echo "$VLLM_API_KEY/$LOCUS_JUDGE_API_KEY"']
    done = subprocess.run(show, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    if content == "":
        assert done.returncode == 1 and "The secret judge_key is empty" in done.stderr
    else:
        assert done.stdout == f"{content or ''}/{content or ''}\n"


@pytest.mark.parametrize("name", ["docs/clusters.md", "cluster/README.md"])
def test_the_readmes_start_the_head_of_the_shipped_file(name):
    typed = re.findall(r"^ray start .+", (ROOT / name).read_text(), re.MULTILINE)
    shipped = load(ROOT / "cluster/local.yaml")["head_start_ray_commands"][-1]
    assert typed and all(shipped.endswith(command) for command in typed)
    exported = re.findall(r"^export (.+)", (ROOT / name).read_text(), re.MULTILINE)
    assert " ".join(exported) == re.search(r"(RAY_AUTH_MODE=.+) ray start", shipped)[1]


def test_the_readme_of_the_package_names_files_that_there_are():
    text = (ROOT / "cluster/README.md").read_text()
    named = set(re.findall(r"`([\w./]+\.(?:ya?ml|py)|kubernetes/|\.\./docker/)`", text))
    assert named >= {"local.yaml", "onprem.yaml", "gpu.yaml", "kubernetes/", "../docker/"}
    for path in named:
        assert any((ROOT / "cluster" / folder / path).exists() for folder in ("", "kubernetes")), path
    for link in re.findall(r"python -m ([\w.]+)", text):
        assert (ROOT / link.replace(".", "/")).with_suffix(".py").exists() or (ROOT / link.replace(".", "/")).is_dir()
