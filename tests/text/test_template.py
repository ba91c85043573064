"""Documents in chat prefixes: what sequences hold, and what of it is masked."""

import numpy as np
import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from sae_dist.common.errors import UserError
from sae_dist.text import Fingerprint, Template, TextConfig, pack, special_ids, wrap_prompts
from tests.text.test_pack import BOS, EOS, FULL, make_tokenizer, whole

USER, MODEL = 200, 201  # special tokens of the chat: one named, one only added as special
CHAT = "<u> 90 {document} 91 <m> 92"


def chat_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer(**special)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<u>"]})
    tokenizer.add_tokens([AddedToken("<m>", special=True)])
    assert tokenizer.convert_tokens_to_ids(["<u>", "<m>"]) == [USER, MODEL]
    return tokenizer


def packed(
    texts: list[str], length: int, special: dict[str, str] = FULL, template: str = CHAT, **options
) -> tuple[list[list[int]], list[list[bool]]]:
    config = TextConfig(sequence_length=length, template=template)
    ids_NS, trainable_NS = whole(pack(texts, chat_tokenizer(**special), config, **options))
    assert ids_NS.dtype == np.int32 and trainable_NS.dtype == np.bool_
    return ids_NS.tolist(), trainable_NS.tolist()


def test_documents_are_wrapped_cut_and_wrapped_again() -> None:
    ids, trainable = packed(["3 4 5 6 7 8 9", "10", "11 12 13 14 15 16"], length=10)
    assert ids == [
        [BOS, USER, 90, 3, 4, 5, 6, 91, MODEL, 92],
        [BOS, USER, 90, 7, 8, 9, 91, MODEL, 92, EOS],
        [BOS, USER, 90, 10, 91, MODEL, 92, EOS, EOS, EOS],
        [BOS, USER, 90, 11, 12, 13, 14, 91, MODEL, 92],
        [BOS, USER, 90, 15, 16, 91, MODEL, 92, EOS, EOS],
    ]
    # the user's prefix, special tokens and what fills up are masked, the model's prefix is not
    assert np.array(trainable).astype(int).tolist() == [
        [0, 0, 0, 1, 1, 1, 1, 1, 0, 1],
        [0, 0, 0, 1, 1, 1, 1, 0, 1, 0],
        [0, 0, 0, 1, 1, 0, 1, 0, 0, 0],
        [0, 0, 0, 1, 1, 1, 1, 1, 0, 1],
        [0, 0, 0, 1, 1, 1, 0, 1, 0, 0],
    ]


def test_short_documents_share_a_sequence() -> None:
    ids, trainable = packed(["3 4", "5", "6 7"], length=16)
    assert ids == [[BOS, USER, 90, 3, 4, 91, MODEL, 92, EOS, USER, 90, 5, 91, MODEL, 92, EOS]]
    assert np.array(trainable).astype(int).tolist() == [
        [0, 0, 0, 1, 1, 1, 0, 1, 0, 0, 0, 1, 1, 0, 1, 0]
    ]


def test_without_bos_a_sequence_begins_with_the_users_prefix() -> None:
    ids, _ = packed(["3 4 5 6"], length=7, special={"eos_token": "</s>"})
    assert ids == [[USER, 90, 3, 4, 91, MODEL, 92], [USER, 90, 5, 6, 91, MODEL, 92]]


@pytest.mark.parametrize("length", [7, 8, 9, 14, 31])
@pytest.mark.parametrize("special", [FULL, {"bos_token": "<s>"}, {"eos_token": "</s>"}, {}])
def test_every_token_comes_once_in_order_between_whole_prefixes(
    length: int, special: dict[str, str]
) -> None:
    generator = np.random.default_rng(0)
    texts = [" ".join(map(str, generator.integers(3, 80, n))) for n in generator.integers(1, 30, 9)]
    ids, trainable = packed(texts, length, special)
    start = [BOS, USER, 90] if "bos_token" in special else [USER, 90]
    found = []
    for row, kept in zip(ids, trainable, strict=True):
        assert row[: len(start)] == start
        before = row[len(row) - row[::-1].index(92) :]  # what fills up
        assert not any(kept[len(row) - len(before) :])
        assert row.count(USER) == row.count(MODEL) == row.count(91) == row.count(92)
        found += [t for t, k in zip(row, kept, strict=True) if k and t not in (91, 92)]
    words = [int(word) for text in texts for word in text.split()]
    assert found == words[: len(found)] and len(words) - len(found) < length


@pytest.mark.parametrize("block_sequences", [1, 2, 1000])
def test_blocks_of_any_size_hold_the_same_and_read_no_document_too_many(
    block_sequences: int,
) -> None:
    texts = ["3 4 5 6 7 8 9", "10", "11 12 13 14 15 16"]
    whole, _ = packed(texts, 10)
    fingerprint = Fingerprint()
    limits = {"num_tokens": 25, "block_sequences": block_sequences, "fingerprint": fingerprint}
    assert packed(texts, 10, **limits)[0] == whole[:2]
    assert (fingerprint.num_documents, fingerprint.num_tokens) == (1, 20)
    assert fingerprint.to_dict(TextConfig(template=CHAT))["text"]["template"] == CHAT


def test_ids_are_special_however_they_were_added() -> None:
    assert special_ids(chat_tokenizer(**FULL)).tolist() == [0, 1, 2, USER, MODEL]


def test_a_prompt_is_what_a_harvested_document_would_be() -> None:
    tokenizer = chat_tokenizer(**FULL)
    (row,), (kept,) = packed(["3 4 5 6"], length=10)
    assert list(wrap_prompts(["3 4 5 6"], tokenizer, CHAT, 99)) == [(row, kept)]
    ((cut, _),) = wrap_prompts(["3 4 5 6"], tokenizer, CHAT, 2)
    assert cut == [BOS, USER, 90, 3, 4, 91, MODEL, 92]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("<u> 90", "found 0 times {document}"),
        ("{document} 90 {document}", "found 2 times {document}"),
        ("<s> <u> {document}", "begins with <s>; expected the user's prefix"),
        (f"<u> {'90 ' * 9}{{document}}", "found text.template of 10 tokens; expected fewer than 9"),
    ],
)
def test_a_template_that_is_none_is_refused(template: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        packed(["3 4"], 10, template=template)


def test_special_tokens_of_another_model_are_told(capsys: pytest.CaptureFixture) -> None:
    Template.of("<|im_start|> user {document}", chat_tokenizer(**FULL))
    assert "warning: the tokenizer has no token <|im_start|>" in capsys.readouterr().err
    Template.of(CHAT, chat_tokenizer(**FULL))
    assert capsys.readouterr().err == ""
