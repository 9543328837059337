"""Tests of editing.editors.tokenizers."""

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from editing.editors.tokenizers import VocabularyError, build_clip_tokenizer, build_t5_tokenizer

WORDS = ["add", "a", "red", "circle", "top", "left"]
TEXTS = ["Add a RED circle.", "add a purple circle, top-left!", "", "red " * 30]


def test_clip_ids_are_bos_words_eos():
    assert build_clip_tokenizer(WORDS)("Add a RED circle.").input_ids == [2, 4, 5, 6, 7, 3]


def test_t5_ids_are_words_then_end():
    assert build_t5_tokenizer(WORDS)("Add a RED circle.").input_ids == [3, 4, 5, 6, 1]


@pytest.mark.parametrize(("build", "unknown"), [(build_clip_tokenizer, 1), (build_t5_tokenizer, 2)])
def test_unknown_words_are_unk_and_hyphens_split(build, unknown):
    tokenizer = build(WORDS)
    ids = tokenizer("purple top-left", add_special_tokens=False).input_ids
    assert ids == [unknown, *tokenizer.convert_tokens_to_ids(["top", "left"])]


@pytest.mark.parametrize("build", [build_clip_tokenizer, build_t5_tokenizer])
def test_padding_and_truncation_keep_the_end_token(build):
    tokenizer = build(WORDS, 8)
    batch = tokenizer(TEXTS, padding="max_length", max_length=8, truncation=True)
    for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True):
        assert len(ids) == len(mask) == 8
        assert ids[sum(mask) - 1] == tokenizer.eos_token_id
        assert all(token == tokenizer.pad_token_id for token in ids[sum(mask) :])


@pytest.mark.parametrize("build", [build_clip_tokenizer, build_t5_tokenizer])
@pytest.mark.parametrize("loader", [PreTrainedTokenizerFast, AutoTokenizer])
def test_a_saved_tokenizer_gives_the_same_ids(build, loader, tmp_path):
    tokenizer = build(WORDS, 16)
    tokenizer.save_pretrained(tmp_path)
    loaded = loader.from_pretrained(tmp_path)
    settings = {"padding": "max_length", "max_length": 16, "truncation": True}
    assert loaded(TEXTS, **settings).input_ids == tokenizer(TEXTS, **settings).input_ids
    assert loaded(TEXTS, **settings).attention_mask == tokenizer(TEXTS, **settings).attention_mask
    assert loaded.model_max_length == 16
    assert len(loaded) == len(tokenizer)


@pytest.mark.parametrize("words", [[], ["top-left"], ["two words"], [""]])
def test_words_the_splitting_cannot_produce_are_refused(words):
    with pytest.raises(VocabularyError):
        build_t5_tokenizer(words)


def test_repeated_words_and_capitals_are_one_entry():
    assert len(build_t5_tokenizer(["Red", "red", "RED"])) == 3 + 1
