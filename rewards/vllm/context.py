"""The context length of a judge, and the CPU memory of its key-value cache. Reads config.json, loads nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from editing.editors.folder import FolderError, read_json

LONGEST = 8192
"""Tokens that two images, a rubric and a response take at most; the models' own 128 k would only take memory."""
UNKNOWN_CACHE = 4
"""GiB for a model whose configuration is not on this machine: enough for 8192 tokens of one of 8 billion parameters."""


def context_of(model: str, arguments: Sequence[str] = ()) -> int:
    """Tokens of a server's context: what its `arguments` say, else 8192, or the model's own where that is less.

    Args:
        model: a folder, or a name on the hub, whose own context is not known here.
    """
    said = re.findall(r"--max[-_]model[-_]len[= ](\d+)(?= |$)", " ".join(arguments))
    if said:
        return int(said[-1])
    found = text_config(model)
    own = found.get("max_position_embeddings") if found else None
    return min(LONGEST, own) if isinstance(own, int) else LONGEST


def cache_gib(model: str, tokens: int) -> int:
    """GiB of key-value cache in float32 that hold one request of so many tokens, at least 1."""
    found = text_config(model)
    per_token = kv_bytes(found) if found else None  # in two bytes a number
    return UNKNOWN_CACHE if per_token is None else max(1, math.ceil(2 * per_token * tokens / 2**30))


def text_config(model: str) -> Mapping[str, Any] | None:
    """The language model's section of a folder's config.json; None for a name on the hub."""
    try:
        found = read_json(Path(model) / "config.json")
    except FolderError:
        return None
    return {**found, **found.get("text_config", {})}


def kv_bytes(config: Mapping[str, Any]) -> int | None:
    """Bytes of key and value of one token over all layers, in bfloat16; None for a configuration without these keys."""
    try:
        heads = config["num_attention_heads"]
        width = config.get("head_dim") or config["hidden_size"] // heads
        return int(4 * config["num_hidden_layers"] * config.get("num_key_value_heads", heads) * width)
    except KeyError:
        return None
