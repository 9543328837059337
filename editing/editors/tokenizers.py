"""Word-level tokenizers for small editors, in the file format that stock pipelines load.

A small editor knows a few dozen words, so sub-words would only make its sequences longer. Both builders
give a `tokenizer.json` tokenizer (transformers' `PreTrainedTokenizerFast`) that `FluxKontextPipeline`
saves and loads like any other:

    tokenizer = build_clip_tokenizer(["add", "a", "red", "circle"], max_length=16)
    tokenizer("Add a RED circle.").input_ids    # [2, 4, 5, 6, 7, 3]: <bos> add a red circle <eos>
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

_WORD = re.compile(r"\w+")


class VocabularyError(ValueError):
    """The list of words is not a valid word-level vocabulary."""


def build_clip_tokenizer(words: Iterable[str], max_length: int = 77) -> PreTrainedTokenizerFast:
    """A tokenizer giving `<bos> words <eos>`, in place of CLIP's.

    Ids: 0 `<pad>`, 1 `<unk>`, 2 `<bos>`, 3 `<eos>`, then the words in the given order. Text is lower-cased,
    punctuation is dropped, unknown words become `<unk>`. `CLIPTextConfig` needs `vocab_size=len(tokenizer)`,
    `bos_token_id=2`, `eos_token_id=3`, `pad_token_id=0` and `max_position_embeddings=max_length`; the
    pipeline pads to `max_length` tokens. (`<eos>` is not 2: the text model takes that number to mean the
    old rule "the largest id is the end".)

    Raises VocabularyError for words that the text splitting would never produce.
    """
    return _build(
        words,
        max_length,
        specials=("<pad>", "<unk>", "<bos>", "<eos>"),
        template="<bos> $A <eos>",
        roles={"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>"},
    )


def build_t5_tokenizer(words: Iterable[str], max_length: int = 512) -> PreTrainedTokenizerFast:
    """A tokenizer giving `words </s>`, in place of T5's.

    Ids as T5 has them: 0 `<pad>`, 1 `</s>`, 2 `<unk>`, then the words in the given order. Text is
    lower-cased, punctuation is dropped, unknown words become `<unk>`. `T5Config` needs
    `vocab_size=len(tokenizer)`. The pipeline pads to its own `max_sequence_length` (512 by default), whatever
    `max_length` is.

    Raises VocabularyError for words that the text splitting would never produce.
    """
    return _build(
        words,
        max_length,
        specials=("<pad>", "</s>", "<unk>"),
        template="$A </s>",
        roles={"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"},
    )


def _build(
    words: Iterable[str], max_length: int, *, specials: Sequence[str], template: str, roles: dict[str, str]
) -> PreTrainedTokenizerFast:
    vocabulary = {token: index for index, token in enumerate([*specials, *_checked(words)])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD.pattern), behavior="removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(token, vocabulary[token]) for token in specials]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        padding_side="right",
        model_input_names=["input_ids", "attention_mask"],
        **roles,
    )


def _checked(words: Iterable[str]) -> list[str]:
    """The words lower-cased, each once, in the given order."""
    lowered = list(dict.fromkeys(word.lower() for word in words))
    if not lowered:
        raise VocabularyError("The list of words: expected at least one word, got none.")
    for word in lowered:
        if _WORD.fullmatch(word) is None:
            raise VocabularyError(
                f"Each word must be letters, digits or underscores only, but {word!r} is in the list; text "
                "is split at everything else, so this entry would never be used. Give its parts as words."
            )
    return lowered
