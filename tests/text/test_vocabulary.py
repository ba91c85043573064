"""Tokens as bytes: together they are the text that was tokenised."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sae_dist.text import vocabulary

TEXT = "The café’s naïve 漢字 cost 🎉\n\n  two lines"


def of_bytes() -> Tokenizer:
    """As GPT-2's: byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|é|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(["The cost of two lines is two lines."] * 9, trainer)
    return tokenizer


def of_pieces() -> Tokenizer:
    """As Gemma's: blanks are ▁, and what is not known falls back to bytes."""
    words = [
        "<|é|>",
        "<unk>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *"▁abcdefghijklmnopqrstuvwxyzT",
    ]
    merges = [("T", "h"), ("Th", "e")]
    known = {word: i for i, word in enumerate([*words, *("".join(pair) for pair in merges)])}
    tokenizer = Tokenizer(models.BPE(known, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(["<|é|>"])
    return tokenizer


@pytest.mark.parametrize("make", [of_bytes, of_pieces])
def test_the_bytes_of_a_texts_tokens_are_its_own(make) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=make(), eos_token="<|é|>")
    tokens = vocabulary(tokenizer)
    assert len(tokens) == len(tokenizer)
    ids = tokenizer(TEXT + "<|é|>", add_special_tokens=False)["input_ids"]
    assert b"".join(tokens[i] for i in ids).decode() == TEXT + "<|é|>"
    assert any(tokens[i] in "漢".encode() and len(tokens[i]) < 3 for i in ids)


def test_words_without_a_decoder_are_as_they_are() -> None:
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "one": 1, "two▁": 2}, unk_token="<s>"))
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<s>")
    assert vocabulary(made) == [b"<s>", b"one", b"two "]


def test_pieces_of_words_begin_one_or_go_on(tmp_path: Path) -> None:
    words = {"[UNK]": 0, "play": 1, "##ing": 2}
    tokenizer = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
    assert vocabulary(made) == [b"[UNK]", b" play", b"ing"]
