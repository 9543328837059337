"""Tiny random Qwen2.5-VL and Qwen3-VL checkpoints that vLLM serves on a CPU (about 0.4 M parameters).

One token per byte, and the special tokens of Qwen-VL, so that any text and any image can be asked about. A quite
random model would fill a constrained answer with white space until it is cut off, and hardly ever mean a digit; these
lean towards quotation marks and digits (see `_lean`), so that they answer in a judge's words. An image moves their
probabilities, but so little that what is drawn with the same seed is mostly the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

Family = Literal["qwen2.5", "qwen3"]

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
"""Bytes as the tokenizer writes them: Ġ is a space, Ċ, č and ĉ are line feed, carriage return and tab."""
LEANING = {'"': 3.5, "12345": 3.0, "0": 1.0, "\\ĠĊĉč": -9.0}
CONSTANT = 4.0
IMAGE_LAYERS = ("merger.mlp.2.", "merger.linear_fc2.", "deepstack_merger_list.0.linear_fc2.")
"""The layers that make an image's embeddings, in either family."""
VOCABULARY = 320  # 256 bytes, the special tokens, and room
LENGTH = 4096
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] in ('image', 'image_url') %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in c %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": LENGTH,
    "tie_word_embeddings": False,
    "bos_token_id": None,
}
ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]}
VISION = {
    "depth": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_heads": 2,
    "out_hidden_size": 64,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}


def make_tiny_qwen_vl(folder: Path, family: Family, seed: int = 0) -> Path:
    """Writes a checkpoint with tokenizer and processor settings, and returns its folder."""
    torch.manual_seed(seed)
    ids = _write_tokenizer(folder)
    model = _qwen25(ids) if family == "qwen2.5" else _qwen3(ids)
    model = model.float()
    _lean(model)
    model.save_pretrained(folder)
    patch, processor = (14, "Qwen2_5_VLProcessor") if family == "qwen2.5" else (16, "Qwen3VLProcessor")
    _write(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": processor,
            "patch_size": patch,
            "merge_size": 2,
            "temporal_patch_size": 2,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "size": {
                "shortest_edge": (2 * patch) ** 2,
                "longest_edge": 64 * (2 * patch) ** 2,
            },  # pixels, despite the name
            "do_resize": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_convert_rgb": True,
            "rescale_factor": 1 / 255,
            "resample": 3,
        },
    )
    _write(
        folder / "generation_config.json",
        {"eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]], "pad_token_id": ids["<|endoftext|>"]},
    )
    return folder


def _write_tokenizer(folder: Path) -> dict[str, int]:
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(LETTERS)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIAL])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        bos_token=None,
        additional_special_tokens=list(SPECIAL[3:]),
        model_max_length=LENGTH,
        chat_template=CHAT,
    ).save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    _write(
        settings,
        {
            **json.loads(settings.read_text()),
            "tokenizer_class": "Qwen2Tokenizer",
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_start_token": "<|vision_start|>",
            "vision_end_token": "<|vision_end|>",
        },
    )
    return {word: tokenizer.token_to_id(word) for word in SPECIAL}


def _shared(ids: dict[str, int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the two families share of the text settings and of the outer settings."""
    text = {**TEXT, "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]}
    outer = {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "tie_word_embeddings": False,
    }
    return text, outer


def _qwen25(ids: dict[str, int]) -> Qwen2_5_VLForConditionalGeneration:
    text, outer = _shared(ids)
    vision = {**VISION, "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [1]}
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config={**text, "rope_parameters": ROPE}, vision_config=vision, **outer)
    )


def _qwen3(ids: dict[str, int]) -> Qwen3VLForConditionalGeneration:
    text, outer = _shared(ids)
    text |= {"head_dim": 32, "rope_parameters": {**ROPE, "mrope_interleaved": True}}
    vision = {**VISION, "patch_size": 16, "num_position_embeddings": 256, "deepstack_visual_indexes": [0]}
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **outer))


def _lean(model: torch.nn.Module) -> None:
    """Gives the output layer a bias, and everything else more weight.

    The first coordinate of the hidden state is made the same constant for every token and left alone by every layer,
    so that the first column of the output layer is a bias. The other weights are enlarged: at their usual size two
    layers hardly move anything.
    """
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "language_model.layers" in name and name.endswith("proj.weight"):
                weight *= 6
            if name.endswith(("embed_tokens.weight", "lm_head.weight")):
                weight *= 10
            if name.endswith("embed_tokens.weight"):
                weight[:, 0] = CONSTANT
            if name.endswith(("o_proj.weight", "down_proj.weight")) and "language_model" in name:
                weight[0] = 0
            if any(layer in name for layer in IMAGE_LAYERS):
                weight[0] = CONSTANT if name.endswith("bias") and "deepstack" not in name else 0
        head = model.get_output_embeddings().weight  # type: ignore[operator]
        head[:, 0] = 0
        for letters, push in LEANING.items():
            for letter in letters:
                head[LETTERS.index(letter), 0] = push


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n")
