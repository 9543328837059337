"""A LoRA merged into a judge's weights on disk, once: EditScore's models are LoRAs on Qwen-VL (arXiv 2509.23909).

Merged weights are served as fast as any others. A merged folder is named by content; the cache of scores goes by the
names in the configuration (`rewards.scorers.judged.model_parts`).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from locus.common.files import write_whole

ADAPTER = "adapter_model.safetensors"
COPIED = (".json", ".txt", ".jinja", ".model")
NOT_COPIED = ("model.safetensors.index.json",)
DIGESTS = "digests.json"

OLD_NAMES = (
    (r"^(base_model\.model\.)visual\.", r"\1model.visual."),
    (r"^(base_model\.model\.model)\.(?!language_model\.|visual\.)", r"\1.language_model."),
)
"""Qwen-VL's modules before and since transformers 4.52; adapters of both times are about."""


class MergeError(RuntimeError):
    """A LoRA cannot be merged; the sentence says why."""


def merged(path: str, lora: str, folder: Path) -> Path:
    """The folder of the merged checkpoint, made if it is not there yet: W + (alpha / r) B A for every adapted matrix.

    The folder's name is made of the contents of both, so that the same pair is merged only once, and a changed one
    again. A second process that wants the same waits for the first.

    Args:
        path: the base: a folder with safetensors, or a name on the Hugging Face hub.
        lora: the LoRA in PEFT's format, likewise.
        folder: where merged checkpoints are kept.

    Raises:
        MergeError: for weights that are not safetensors, and for a LoRA that does not fit the base in every tensor.
    """
    base, adapter = local_folder(path), local_folder(lora)
    if not (adapter / ADAPTER).exists():
        raise MergeError(f"serve.lora: expected {ADAPTER} in {adapter}; other formats can run code and are not loaded.")
    if not list(base.glob("*.safetensors")):
        raise MergeError(f"serve.path: expected weights as *.safetensors in {base}, and there are none.")
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        target = folder / _together(digest(base, folder), digest(adapter, folder))
        if not target.exists():
            unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=folder))
            try:
                _merge(base, adapter, unfinished)
                unfinished.chmod(0o755)
                os.rename(unfinished, target)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    return target


def local_folder(name: str) -> Path:
    """A folder as it is; for a name on the hub, what was downloaded of it."""
    if Path(name).is_dir():
        return Path(name).resolve()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", *(f"*{end}" for end in COPIED)]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise MergeError(f"expected a folder or a name on the hub, but {name!r} is neither: {error}") from error


def digest(weights: Path, folder: Path) -> str:
    """sha256 (hex) of the names and contents of a checkpoint's files.

    Files that have not changed since (by size and time) are not read again: their digests are kept in `folder`.
    """
    known_file = folder / DIGESTS
    known: dict[str, str] = json.loads(known_file.read_text(encoding="utf-8")) if known_file.exists() else {}
    found = {}
    for file in sorted(weights.iterdir()):
        if file.suffix != ".safetensors" and file.suffix not in COPIED:
            continue
        status = file.stat()
        key = f"{file.resolve()} {status.st_size} {status.st_mtime_ns}"
        if key not in known:
            with file.open("rb") as content:
                known[key] = hashlib.file_digest(content, "sha256").hexdigest()
        found[file.name] = known[key]
    write_whole(known_file, json.dumps(known, indent=1))
    return _together(*(f"{name} {value}" for name, value in found.items()))


def _together(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go by the kernel, whatever becomes of this process
        yield


def _merge(base: Path, adapter: Path, target: Path) -> None:
    # Imported late: only where there is something to merge.
    import torch
    from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(
        base, dtype="auto", use_safetensors=True, local_files_only=True, trust_remote_code=False
    )
    config = PeftConfig.from_pretrained(adapter)
    if config.peft_type != "LORA":
        raise MergeError(f"serve.lora: expected a LoRA in {adapter}, got {config.peft_type}.")
    config.inference_mode = True
    state = renamed(load_file(adapter / ADAPTER))
    with torch.no_grad():
        try:
            model = get_peft_model(model, config)
            result = set_peft_model_state_dict(model, state)
        except (ValueError, RuntimeError) as error:  # no such modules; other shapes
            raise MergeError(f"serve.lora: {adapter} is not for this base: {error}") from error
        _check_fit(adapter, result.unexpected_keys, [key for key in result.missing_keys if ".lora_" in key])
        model = model.merge_and_unload(safe_merge=True)
    model.save_pretrained(target)
    for file in base.iterdir():  # the tokenizer, the processor, and the settings as they were
        if file.suffix in COPIED and file.name not in NOT_COPIED:
            shutil.copyfile(file, target / file.name)


def renamed(state: Mapping[str, Any]) -> dict[str, Any]:
    """An adapter's tensors under the names that modules have today."""
    found = {}
    for name, value in state.items():
        for old, new in OLD_NAMES:
            name = re.sub(old, new, name)
        found[name] = value
    return found


def _check_fit(adapter: Path, unexpected: list[str], missing: list[str]) -> None:
    """PEFT only warns, and the merged model would be the base under another name."""
    for what, keys in (("tensors that fit nothing in the base", unexpected), ("no tensors for", missing)):
        if keys:
            raise MergeError(
                f"serve.lora: {adapter} is not for this base: it has {what}, such as {keys[0]} (and "
                f"{len(keys) - 1} more)."
            )
