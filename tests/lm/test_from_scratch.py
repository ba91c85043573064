import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from sae_dist.common.errors import UserError
from sae_dist.lm import LMConfig, SmallLMConfig, load_lm, next_token_loss_NS, train_small_lm
from sae_dist.lm import from_scratch as module

CONFIG = SmallLMConfig(
    vocab_size=300,
    hidden_size=16,
    intermediate_size=32,
    num_layers=1,
    num_heads=2,
    sequence_length=16,
    batch_size=4,
    num_steps=60,
    learning_rate=1e-2,
    held_out_every=5,
    held_out_sequences=8,
)


def texts() -> Iterator[str]:
    yield from (f"def double_{i}(x):\n    return 2 * x + {i}  # é\n" for i in range(60))


def test_a_small_lm_learns_and_is_saved_whole(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "lm"
    report = train_small_lm(CONFIG, texts, folder)
    assert report["held_out_loss"] < report["unigram_loss"] - 0.5
    assert json.loads((folder / "training.json").read_text()) == report
    assert [path.name for path in folder.parent.iterdir()] == ["lm"]

    lm = load_lm(LMConfig(name=str(folder)))
    text = next(texts())
    ids = lm.tokenizer(text)["input_ids"]
    assert lm.tokenizer.decode(ids) == text
    assert lm.tokenizer.bos_token_id == lm.tokenizer.eos_token_id == lm.model.config.bos_token_id
    ids_NS = torch.tensor([[lm.tokenizer.bos_token_id, *ids][:16]])
    assert next_token_loss_NS(lm.model, ids_NS).mean() < report["unigram_loss"]


def test_training_again_gives_the_same_model(tmp_path: Path) -> None:
    reports = [train_small_lm(CONFIG, texts, tmp_path / name) for name in ("one", "two")]
    assert reports[0]["held_out_loss"] == pytest.approx(reports[1]["held_out_loss"], rel=1e-3)


def test_a_finetune_begins_where_its_base_ended_and_keeps_its_shape(tmp_path: Path) -> None:
    base, finetune = tmp_path / "base", tmp_path / "finetune"
    train_small_lm(CONFIG, texts, base)

    def questions() -> Iterator[str]:
        yield from (f"double_{i}? It gives 2 * x + {i}.\n" for i in range(60))

    other_shape = replace(CONFIG, hidden_size=32, num_layers=3, vocab_size=400, num_steps=40)
    report = train_small_lm(other_shape, questions, finetune, base)
    assert report["held_out_loss"] < report["loss_before"] - 0.5
    assert report["config"] == asdict(replace(CONFIG, num_steps=40))
    assert report["base"] == str(base)
    tokenizers = [(folder / "tokenizer.json").read_bytes() for folder in (base, finetune)]
    assert tokenizers[0] == tokenizers[1]

    before, after = (load_lm(LMConfig(name=str(folder))) for folder in (base, finetune))
    ids_NS = torch.tensor([[0, *after.tokenizer("double_7? It gives 2 * x")["input_ids"]][:16]])
    losses = [next_token_loss_NS(lm.model, ids_NS).mean() for lm in (before, after)]
    assert losses[1] < losses[0]


def test_a_finetune_without_its_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found no small language model in .*nowhere"):
        train_small_lm(CONFIG, texts, tmp_path / "lm", tmp_path / "nowhere")


def test_an_interrupted_run_leaves_no_folder_that_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path, value: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_json", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_small_lm(CONFIG, texts, tmp_path / "lm")
    assert not (tmp_path / "lm").exists()


def test_an_existing_folder_and_too_little_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a new folder"):
        train_small_lm(CONFIG, texts, tmp_path)
    with pytest.raises(UserError, match="give more text"):
        train_small_lm(CONFIG, lambda: iter(["short"]), tmp_path / "lm")
