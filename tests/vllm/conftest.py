"""Real vLLM on the CPU, for `make test-vllm`: tiny checkpoints, servers, and the table that is printed at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.vllm.tiny_qwen_vl import make_tiny_qwen_vl


@dataclass
class Row:
    """A line of the table; `statistics` are those of the reward pool."""

    what: str
    seconds: float
    judge: str = ""
    statistics: Mapping[str, float] | None = None

    def cells(self) -> list[str]:
        found = self.statistics or {}

        def count(*names: str) -> str:
            return f"{sum(found[f'{self.judge}_{name}'] for name in names):.0f}" if self.judge else ""

        def time(name: str) -> str:
            return f"{found[f'{self.judge}_{name}']:.2f}" if f"{self.judge}_{name}" in found else ""

        return [
            self.what,
            f"{self.seconds:.1f}",
            count("asked"),
            count("unanswered", "refused", "bad"),
            count("retries"),
            time("p50_seconds"),
            time("p95_seconds"),
            f"{found['cache_hits']:.0f}" if "cache_hits" in found else "",
        ]


HEADER = ["what", "seconds", "requests", "errors", "retries", "p50 s", "p95 s", "cache hits"]
ROWS: list[Row] = []


@pytest.fixture
def row():
    """`row(what, seconds, judge, statistics)` adds a line to the table."""
    return lambda *values: ROWS.append(Row(*values))


def pytest_terminal_summary(terminalreporter):
    lines = [HEADER, *(row.cells() for row in ROWS)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    terminalreporter.section("judges on real vLLM")
    for line in lines:
        cells = [
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        terminalreporter.write_line("  ".join(cells).rstrip())


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """Tiny random judges: `qwen2.5`, a `lora` for it, and `qwen3`."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    folder = tmp_path_factory.mktemp("checkpoints")
    made = {
        "qwen2.5": make_tiny_qwen_vl(folder / "qwen2.5", "qwen2.5"),
        "qwen3": make_tiny_qwen_vl(folder / "qwen3", "qwen3"),
        "lora": folder / "lora",
    }
    model = AutoModelForImageTextToText.from_pretrained(made["qwen2.5"])
    get_peft_model(
        model, LoraConfig(r=2, target_modules=r".*language_model.*(q|v)_proj", init_lora_weights=False)
    ).save_pretrained(made["lora"])
    return made


def judges(checkpoints: Mapping[str, Path], replicas: int = 1) -> dict:
    """The section `rewards.judge`: EditScore on Qwen2.5-VL with a LoRA, the one-digit judge on Qwen3-VL.

    These models say something else than a digit with a third of their probability: hence `min_mass`.
    """
    arguments = ["--max-model-len=4096", "--max-num-seqs=8"]
    return {
        "editscore": {
            "passes": 2,
            "max_tokens": 256,
            "serve": {
                "replicas": replicas,
                "path": str(checkpoints["qwen2.5"]),
                "lora": str(checkpoints["lora"]),
                "gpus": 0,
                "arguments": arguments,
            },
        },
        "qwen_vl": {
            "min_mass": 0.3,
            "serve": {"replicas": 1, "path": str(checkpoints["qwen3"]), "gpus": 0, "arguments": arguments},
        },
        "concurrency": 4,
        "patience": 240,
    }
