import hashlib
from collections.abc import Iterable
from itertools import chain

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sae_dist.common.errors import UserError
from sae_dist.text import Block, Fingerprint, TextConfig, pack

BOS, EOS, PAD = 0, 1, 2  # and word "i" is token i


def make_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    names = ["<s>", "</s>", "<pad>"]
    vocab = {name: index for index, name in enumerate(names)}
    vocab |= {str(index): index for index in range(3, 200)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


FULL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def whole(blocks: Iterable[Block]) -> tuple[np.ndarray, np.ndarray]:
    """The ids of all blocks, and which of them are trained on."""
    parts = [(block.ids_NS, block.trainable_NS) for block in blocks]
    ids_NS, trainable_NS = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return ids_NS, trainable_NS


def ids_of(texts: list[str], length: int = 4, **options) -> list[list[int]]:
    tokenizer = make_tokenizer(**options.pop("special", FULL))
    blocks = pack(texts, tokenizer, TextConfig(sequence_length=length), **options)
    return whole(blocks)[0].tolist()


def test_documents_are_joined_by_eos_cut_and_led_by_bos() -> None:
    rows = ids_of(["3 4", "5 6 7 8", "9", "10"])
    assert rows == [[BOS, 3, 4, EOS], [BOS, 5, 6, 7], [BOS, 8, EOS, 9]]


def test_without_bos_sequences_begin_with_eos() -> None:
    assert ids_of(["3", "4 5 6 7"], special={"eos_token": "</s>"}) == [
        [EOS, 3, EOS, 4],
        [EOS, 5, 6, 7],
    ]


def test_without_eos_documents_are_joined_by_bos() -> None:
    assert ids_of(["3", "4"], special={"bos_token": "<s>"}) == [[BOS, 3, BOS, 4]]


def test_without_either_there_are_only_words() -> None:
    assert ids_of(["3", "4 5", "6 7"], special={}) == [[3, 4, 5, 6]]


def test_special_ids_and_the_excluded_prefix_are_not_trainable() -> None:
    config = TextConfig(sequence_length=6, exclude_prefix=2)
    ids_NS, trainable_NS = whole(pack(["3 4 5", "<pad> 7"], make_tokenizer(**FULL), config))
    assert ids_NS.dtype == np.int32
    assert trainable_NS.dtype == np.bool_
    assert ids_NS.tolist() == [[BOS, 3, 4, 5, EOS, PAD]]
    assert trainable_NS.tolist() == [[False, False, True, True, False, False]]


@pytest.mark.parametrize("block_sequences", [1, 2, 3, 7, 1000])
def test_blocks_of_any_size_hold_the_same_sequences(block_sequences: int) -> None:
    texts = [" ".join(str(3 + i % 190) for i in range(start, start + 17)) for start in range(40)]
    expected = ids_of(texts)
    config = TextConfig(sequence_length=4)
    blocks = list(pack(texts, make_tokenizer(**FULL), config, block_sequences=block_sequences))
    assert whole(blocks)[0].tolist() == expected
    assert {len(block.ids_NS) for block in blocks[:-1]} <= {block_sequences}
    assert len(blocks[-1].ids_NS) <= block_sequences


def test_a_limit_on_tokens_keeps_whole_sequences_and_reads_no_document_too_many() -> None:
    texts = ["3 4", "5 6 7 8", "9", "10 11"]
    fingerprint = Fingerprint()
    rows = ids_of(texts, num_tokens=11, block_sequences=1, fingerprint=fingerprint)
    assert rows == ids_of(texts)[:2]
    assert fingerprint.num_tokens == 8
    assert fingerprint.num_documents == 2
    assert fingerprint.num_characters == len("3 4" + "5 6 7 8")


def test_a_document_of_which_only_the_separator_before_it_was_taken_is_not_counted() -> None:
    fingerprint = Fingerprint()
    assert ids_of(["3 4", "5"], num_tokens=4, fingerprint=fingerprint) == [[BOS, 3, 4, EOS]]
    assert (fingerprint.num_documents, fingerprint.num_tokens_asked) == (1, 4)


def test_an_endless_corpus_is_read_no_further_than_needed() -> None:
    read = []
    texts = (read.append(i) or "3 4 5" for i in range(10_000))
    assert len(ids_of(texts, num_tokens=40)) == 10  # type: ignore[arg-type]
    assert len(read) <= 1024


def fingerprint_of(texts: list[str], **config) -> dict:
    fingerprint, config = Fingerprint(), TextConfig(sequence_length=4, **config)
    list(pack(texts, make_tokenizer(**FULL), config, fingerprint=fingerprint))
    return fingerprint.to_dict(config)


def test_the_fingerprint_changes_with_text_boundaries_and_config_only() -> None:
    first = fingerprint_of(["3 4", "5 6"])
    assert first == fingerprint_of(["3 4", "5 6"])
    assert first["num_documents"] == 2
    data = [b"3 4", b"5 6"]
    hashed = chain.from_iterable((len(text).to_bytes(8, "little"), text) for text in data)
    assert first["documents_sha256"] == hashlib.sha256(b"".join(hashed)).hexdigest()
    for other in (["3 4", "5 7"], ["3 4 ", "5 6"], ["3", "4 5 6"]):
        assert fingerprint_of(other)["documents_sha256"] != first["documents_sha256"]
    assert fingerprint_of(["3 4", "5 6"], revision="abc")["text"]["revision"] == "abc"


@pytest.mark.parametrize(
    ("texts", "config", "num_tokens", "said"),
    [
        (["3"], {"sequence_length": 4}, None, "enough for one sequence of 4 tokens"),
        (["3"], {"sequence_length": 1}, None, "at least 2"),
        (["3"], {"sequence_length": 4, "exclude_prefix": 4}, None, "a shorter prefix"),
        (["3"], {"sequence_length": 4}, 3, "found a limit of 3 tokens"),
    ],
)
def test_lengths_that_make_no_sequence_are_refused(
    texts: list[str], config: dict[str, int], num_tokens: int | None, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        list(pack(texts, make_tokenizer(**FULL), TextConfig(**config), num_tokens=num_tokens))
