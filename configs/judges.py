"""Settings of the judges: servers, requests, failure limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from configs.addresses import judge_address
from configs.paths import PathText
from configs.section import Section

JUDGES: tuple[Literal["editscore", "qwen_vl"], ...] = ("editscore", "qwen_vl")
"""The multimodal judges, and the components that are their verdict as a whole."""
JUDGED: Mapping[str, str] = {
    **{name: name for name in JUDGES},
    "editscore_success": "editscore",
    "editscore_preservation": "editscore",
}
"""Every component that a judge is asked for, and which judge that is."""


class ServeConfig(Section):
    """Judge servers that the run starts and stops itself: `replicas` processes of `vllm serve`."""

    replicas: int = Field(0, ge=0)
    """How many servers of this judge to start; 0 starts none (then give `urls`)."""
    path: PathText = ""
    """The judge's weights: a folder, or a name on the Hugging Face hub."""
    lora: PathText = ""
    """A LoRA to merge into the weights once, before serving (EditScore's); empty for none."""
    python: PathText = ".venv-judge/bin/python"
    """Interpreter of the environment with vLLM (created by `make judge`)."""
    arguments: tuple[str, ...] = ()
    """Further arguments of the server, such as --max-model-len=4096; part of the score cache key."""
    gpus: float = Field(1.0, ge=0)
    """GPUs per server; 0 serves on the CPU. Several shard one model (--tensor-parallel-size), unless `arguments`
    parallelise it otherwise."""
    start_timeout: float = Field(900.0, gt=0)
    """Seconds within which every server must have scored a real image."""


class EditScoreConfig(Section):
    """EditScore (arXiv 2509.23909): two scoring requests per pass, 0..25 each, averaged over passes."""

    urls: tuple[str, ...] = ()
    """OpenAI-compatible servers of this judge, such as http://127.0.0.1:8000/v1; requests are balanced over them."""
    model: str = "judge"
    """The served model name."""
    revision: str = ""
    """Identifies these weights among others of the same name, in the score cache key; required by redis.mode url."""
    serve: ServeConfig = ServeConfig()
    passes: int = Field(4, ge=1)
    """Passes per image, with seeds 0, 1, ...; their mean is the score. Single passes are noisy."""
    temperature: float = Field(0.7, ge=0)
    """Sampling temperature."""
    top_p: float = Field(0.9, gt=0, le=1)
    """Nucleus sampling: probability mass of the tokens sampled from."""
    top_k: int = Field(20, ge=1)
    """Number of most likely tokens sampled from."""
    max_tokens: int = Field(512, ge=32)
    """Longest response in tokens, reasoning included."""


class QwenVlConfig(Section):
    """One-token scoring of Edit-R1: the expected digit 0..5 under the model's token probabilities."""

    urls: tuple[str, ...] = ()
    """OpenAI-compatible servers of this judge; they must support logprobs and /tokenize, as vLLM does."""
    model: str = "judge"
    """The served model name."""
    revision: str = ""
    """Identifies these weights among others of the same name, in the score cache key; required by redis.mode url."""
    serve: ServeConfig = ServeConfig()
    requirement: str = ""
    """What the judge should pay attention to besides the instruction, in words."""
    min_mass: float = Field(0.5, gt=0, le=1)
    """Minimum total probability of the six digits; a response below it is an error."""


class JudgeConfig(Section):
    """Multimodal judges of the edit; a judge without urls or replicas is off."""

    editscore: EditScoreConfig = EditScoreConfig()
    qwen_vl: QwenVlConfig = QwenVlConfig()
    concurrency: int = Field(16, ge=1)
    """Concurrent requests per server."""
    deadline: float = Field(120.0, gt=0)
    """Timeout of one attempt at one server in seconds; a server that exceeds it leaves the rotation."""
    patience: float = Field(600.0, gt=0)
    """Deadline of a request in seconds, queueing and retries on any server included."""
    attempts: int = Field(4, ge=1)
    """Maximum number of attempts per request."""
    max_unanswered: int = Field(8, ge=1)
    """Stop the run when this many requests in a row were given up (the judges are gone)."""
    max_bad_answers: float = Field(0.25, gt=0, le=1)
    """Stop the run when more than this share of the last 200 responses had no score (the judge is the wrong model)."""

    @property
    def configured(self) -> tuple[str, ...]:
        """The judges that have servers."""
        return tuple(name for name in JUDGES if getattr(self, name).urls or getattr(self, name).serve.replicas)

    @model_validator(mode="after")
    def _servers_are_usable(self) -> JudgeConfig:
        for name in JUDGES:
            judge = getattr(self, name)
            for url in judge.urls:
                try:
                    judge_address(url)
                except ValueError as error:
                    raise ValueError(f"rewards.judge.{name}.urls: {error}") from None
            serve: ServeConfig = judge.serve
            if serve.replicas and not serve.path:
                raise ValueError(
                    f"rewards.judge.{name}.serve.replicas: expected 0 while serve.path is empty, got "
                    f"{serve.replicas}; set serve.path to the judge's weights, a folder or a name on the "
                    "Hugging Face hub"
                )
            if serve.gpus > 1 and serve.gpus != int(serve.gpus):
                raise ValueError(
                    f"rewards.judge.{name}.serve.gpus: expected a share of one GPU or a whole number of "
                    f"GPUs, got {serve.gpus:g}"
                )
        return self
