"""Conversations, token ids, special tokens written out, one document a sequence, and going on."""

from typing import Any

import numpy as np
import pytest
import torch

from sae_dist.common.errors import UserError
from sae_dist.lm import Capture, resolve
from sae_dist.text import (
    Document,
    Fingerprint,
    Packing,
    Position,
    SpecialTokens,
    TextConfig,
    look,
    pack,
)
from tests.harvest.tiny import tokenizer as byte_pairs
from tests.lm.tiny import tiny_model
from tests.text.test_pack import BOS, EOS, FULL, make_tokenizer, whole
from tests.text.test_template import CHAT, MODEL, USER, chat_tokenizer

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role not in ['user', 'assistant'] %}"
    "{{ raise_exception('no ' + message.role) }}{% endif %}"
    "{{ ' <u> ' if message.role == 'user' else ' <m> ' }}{{ message.content }}{% endfor %}"
    "{{ ' ' + eos_token }}"
)
MESSAGES = [{"role": "user", "content": "3 4"}, {"role": "assistant", "content": "5"}]


def ids(*numbers: int) -> np.ndarray:
    return np.asarray(numbers, dtype=np.int32)


def packed(documents: list[Document], length: int, **config: Any) -> tuple[list, list]:
    tokenizer = chat_tokenizer(**FULL)
    tokenizer.chat_template = CHAT_TEMPLATE
    ids_NS, trainable_NS = whole(
        pack(documents, tokenizer, TextConfig(sequence_length=length, **config))
    )
    return ids_NS.tolist(), trainable_NS.astype(int).tolist()


def test_messages_are_written_by_the_tokenizers_template_with_one_bos_and_one_eos() -> None:
    found, trainable = packed([MESSAGES, MESSAGES], 12)
    assert found == [[BOS, USER, 3, 4, MODEL, 5, EOS, USER, 3, 4, MODEL, 5]]
    assert trainable == [[0, 0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 1]]


def test_a_template_that_asks_for_the_date_is_given_the_same_always() -> None:
    tokenizer = chat_tokenizer(**FULL)
    tokenizer.chat_template = "{{ strftime_now('%d %y') }} {{ date_string[:2] }}"
    (block,) = pack([MESSAGES], tokenizer, TextConfig(sequence_length=4))
    assert block.ids_NS.tolist() == [[BOS, 26, 24, 26]]


@pytest.mark.parametrize(
    ("template", "messages", "config", "said"),
    [
        (None, MESSAGES, {}, "a tokenizer without a chat template; expected .* set lm.name"),
        (CHAT_TEMPLATE, [{"role": "tool", "content": "3"}], {}, r"\['tool'\].*refuses \(no tool\)"),
        (CHAT_TEMPLATE, MESSAGES, {"template": CHAT}, "found text.template on messages"),
        (CHAT_TEMPLATE, MESSAGES, {"special_tokens": "text"}, "found text.special_tokens=text on"),
        (CHAT_TEMPLATE, MESSAGES, {"packing": "rows"}, "found text in .*expected text.sequence_l"),
    ],
)
def test_messages_that_cannot_be_written_are_refused_at_the_first_look(
    template: str | None, messages: list, config: dict, said: str
) -> None:
    tokenizer = chat_tokenizer(**FULL)
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=said) as caught:
        look([messages], tokenizer, TextConfig(sequence_length=8, **config))
    assert "\n" not in str(caught.value)


def test_token_ids_are_documents_like_others() -> None:
    found, _ = packed([ids(BOS, 3, 4, EOS), ids(5, 6, 7), ids(8)], 5)
    assert found == [[BOS, 3, 4, EOS, 5], [BOS, 6, 7, EOS, 8]]


@pytest.mark.parametrize("packing", ["auto", "rows"])
def test_rows_of_token_ids_as_long_as_a_sequence_are_kept(packing: str) -> None:
    found, trainable = packed([ids(9, 3, EOS), ids(BOS, 6, 7)], 3, packing=packing)
    assert (found, trainable) == ([[9, 3, EOS], [BOS, 6, 7]], [[1, 1, 0], [0, 1, 1]])
    assert packed([ids(9, 3, 4)], 3, packing="joined")[0] == [[BOS, 9, 3]]
    with pytest.raises(
        UserError, match=r"a row of 2 token ids in .*, document 2; .*packing=joined"
    ):
        packed([ids(9, 3, 4), ids(5, 6)], 3, packing=packing)
    with pytest.raises(UserError, match="packing=rows with text.template"):
        packed([ids(9, 3, 4)], 3, packing="rows", template=CHAT)


def test_ids_beyond_the_embedding_are_refused() -> None:
    documents, config = [ids(3, 500, 4, 5)], TextConfig(sequence_length=4)
    with pytest.raises(UserError, match="token id 500; expected ids below 500"):
        list(pack(documents, make_tokenizer(**FULL), config, num_ids=500))
    assert len(list(pack(documents, make_tokenizer(**FULL), config, num_ids=501))) == 1


def test_special_tokens_written_out_are_parsed_or_kept_as_text() -> None:
    assert packed(["3 </s> <m> 4"], 5)[0] == [[BOS, 3, EOS, MODEL, 4]]
    tokenizer = byte_pairs()
    for asked, num in ((SpecialTokens.parse, 1), (SpecialTokens.text, 0), (SpecialTokens.parse, 1)):
        config = TextConfig(sequence_length=4, special_tokens=asked)
        (block,) = pack(["the <s> a"], tokenizer, config, num_tokens=4)
        assert (block.ids_NS[0, 1:] == tokenizer.bos_token_id).sum() == num


def test_padded_no_sequence_holds_two_documents_and_no_token_is_lost() -> None:
    found, trainable = packed(["3 4", "5 6 7 8 9", "10"], 4, packing="padded")
    assert found == [[BOS, 3, 4, EOS], [BOS, 5, 6, 7], [BOS, 8, 9, EOS], [BOS, 10, EOS, EOS]]
    assert trainable == [[0, 1, 1, 0], [0, 1, 1, 1], [0, 1, 1, 0], [0, 1, 0, 0]]
    found, _ = packed(["3", "5 6 7 8"], 9, packing="padded", template=CHAT)
    assert found == [
        [BOS, USER, 90, 3, 91, MODEL, 92, EOS, EOS],
        [BOS, USER, 90, 5, 6, 7, 91, MODEL, 92],
        [BOS, USER, 90, 8, 91, MODEL, 92, EOS, EOS],
    ]


def test_what_fills_a_sequence_up_changes_nothing_before_it() -> None:
    model = tiny_model("llama")
    capture = Capture(model, [resolve(model, "resid_post.1")])
    config = TextConfig(sequence_length=8, packing=Packing.padded)
    ids_NS, trainable_NS = whole(pack(["3 4 5"], make_tokenizer(**FULL), config))
    padded, alone = (capture(torch.from_numpy(i).long()) for i in (ids_NS, ids_NS[:, :4]))
    assert trainable_NS.sum() == 3
    torch.testing.assert_close(
        padded["resid_post.1"][:, :4], alone["resid_post.1"], rtol=0, atol=1e-6
    )


def corpus(kind: str) -> list[Document]:
    generator = np.random.default_rng(0)
    words = [generator.integers(3, 80, n) for n in generator.integers(1, 30, 40)]
    if kind == "rows":
        return [np.resize(row, 9).astype(np.int32) for row in words]
    if kind == "ids":
        return [row.astype(np.int32) for row in words]
    texts = [" ".join(map(str, row)) for row in words]
    if kind == "messages":
        return [[{"role": "user", "content": text}] for text in texts]
    return list(texts)


@pytest.mark.parametrize("block_sequences", [1, 4, 13])
@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("text", {}),
        ("text", {"packing": "padded"}),
        ("text", {"template": CHAT}),
        ("text", {"template": CHAT, "packing": "padded"}),
        ("ids", {}),
        ("rows", {}),
        ("messages", {}),
    ],
)
@pytest.mark.parametrize("special", [FULL, {}])
def test_from_any_position_come_the_blocks_that_followed_it(
    kind: str, config: dict[str, Any], block_sequences: int, special: dict[str, str]
) -> None:
    documents, tokenizer = corpus(kind), chat_tokenizer(**special)
    tokenizer.chat_template = "{{ messages[0].content }}"
    text = TextConfig(sequence_length=9, **config)

    def blocks(start: Position, fingerprint: Fingerprint) -> Any:
        return list(
            pack(
                documents,
                tokenizer,
                text,
                start=start,
                block_sequences=block_sequences,
                fingerprint=fingerprint,
            )
        )

    whole = Fingerprint()
    all_blocks = blocks(Position(), whole)
    assert len(all_blocks) > 3
    for place in {1, 2, len(all_blocks) // 2, len(all_blocks) - 1, len(all_blocks)}:
        fingerprint = Fingerprint()
        for block in all_blocks[:place]:
            fingerprint.add_sequences(block.ids_NS)
        rest = blocks(all_blocks[place - 1].end, fingerprint)
        assert len(rest) == len(all_blocks) - place
        for found, wanted in zip(rest, all_blocks[place:], strict=True):
            assert np.array_equal(found.ids_NS, wanted.ids_NS)
            assert np.array_equal(found.trainable_NS, wanted.trainable_NS)
            assert found.end == wanted.end
        assert fingerprint.to_dict(text) == whole.to_dict(text)


def test_what_was_passed_over_is_not_tokenised() -> None:
    documents = ["3 4 5"] * 20
    *_, last = pack(documents, make_tokenizer(**FULL), TextConfig(sequence_length=4))
    assert last.end.document == 19
    seen: list[str] = []
    tokenizer = make_tokenizer(**FULL)
    start = Position(document=18)

    class Watched(type(tokenizer)):  # type: ignore[misc]
        def __call__(self, texts: list[str], **options: Any) -> Any:
            seen.extend(texts)
            return super().__call__(texts, **options)

    tokenizer.__class__ = Watched
    list(pack(documents, tokenizer, TextConfig(sequence_length=4), start=start))
    assert len(seen) == 2
