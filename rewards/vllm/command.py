"""The command line and environment of a vLLM server. Starts nothing."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

from configs.judges import ServeConfig
from rewards.vllm.context import cache_gib, context_of

ROOT = Path(__file__).resolve().parents[2]
INSIDE = Path(__file__).resolve().parent / "inside"
"""Modules that the server imports: they run in vLLM's environment, not in ours."""
MODULE = "vllm.entrypoints.openai.api_server"
"""The `vllm` command itself needs package metadata that the CPU build does not have."""
CPU = (
    "--dtype",
    "float32",
    "--enforce-eager",
    # A prompt worked on in parts takes back what a request with a seed has drawn, which a generator on the CPU cannot:
    # the engine would end with "CPU Generator does not use offset" (vLLM 0.32).
    "--no-enable-chunked-prefill",
)
PARALLEL = ("-tp", "--tensor-parallel", "-pp", "--pipeline-parallel", "-dp", "--data-parallel")
"""Beginnings of the arguments that spread a model over several GPUs."""
OURS = ("LOCUS_", "VLLM_API_KEY")
"""Variables that a server does not inherit: secrets of the run, and what is set here."""


def interpreter(python: str) -> str:
    """The interpreter of vLLM's environment; a relative path is one of this checkout.

    Raises:
        ValueError: when there is none.
    """
    path = ROOT / python  # an absolute path stays as it is
    if not path.exists():
        raise ValueError(
            f"serve.python: expected the interpreter of an environment that has vLLM at {path}; there is "
            "none. Type `make judge` in the folder of Locus, or name your own."
        )
    return str(path)


def command(config: ServeConfig, model: str, name: str, host: str, port: int) -> list[str]:
    """What starts the server.

    `config.arguments` come last, so that they win over what is given here. A server of several GPUs shares the model
    out over them, unless the arguments say how.

    Args:
        model: the weights: a folder, or a name on the hub.
        name: under which the model is served.
    """
    cpu = () if config.gpus else CPU
    spread = any(argument.replace("_", "-").startswith(PARALLEL) for argument in config.arguments)
    shared = ("--tensor-parallel-size", f"{config.gpus:g}") if config.gpus > 1 and not spread else ()
    return [
        interpreter(config.python),
        "-m",
        MODULE,
        "--model",
        model,
        "--served-model-name",
        name,
        "--host",
        host,
        "--port",
        str(port),
        *cpu,
        *shared,
        "--max-model-len",
        str(context_of(model)),
        "--limit-mm-per-prompt",
        '{"image": 4, "video": 0}',
        "--generation-config",
        "vllm",  # sampling is what the request says, nothing from the model's folder
        "--allowed-media-domains",
        "data.invalid",  # images come in the request; nothing is fetched
        "--middleware",
        "locus_allow_list.AllowList",
        *config.arguments,
    ]


def environment(config: ServeConfig, model: str, api_key: str, inherited: Mapping[str, str]) -> dict[str, str]:
    """The server's environment: what is inherited, without the run's own secrets and import path.

    The key travels here and not on the command line, which everybody on the machine can read.
    """
    values = {k: v for k, v in inherited.items() if not k.startswith(OURS) and k not in ("PYTHONPATH", "PYTHONHOME")}
    values |= {
        "PYTHONPATH": str(INSIDE),
        "PYTHONUNBUFFERED": "1",  # the log's last lines are there when the server dies
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
    }
    if api_key:
        values["VLLM_API_KEY"] = api_key
    if Path(model).is_dir():
        values["HF_HUB_OFFLINE"] = "1"
    if not config.gpus:
        # Servers share the cores with each other and with the run: vLLM would bind each of them to the same ones.
        # And without a size, vLLM would want 92 % of the machine's memory to be free.
        space = cache_gib(model, context_of(model, config.arguments))
        values = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": str(space), **values}
    return values


def check_exposure(host: str, api_key: str) -> None:
    """Refuses to listen beyond loopback without a key.

    Raises:
        ValueError: for an address beyond loopback without a key.
    """
    if not api_key and not ip_address(host).is_loopback:
        raise ValueError(
            f"A judge server at {host} can be reached from other machines: set LOCUS_JUDGE_API_KEY (any "
            "long random text, the same for every process of the run), so that it serves only the run."
        )
