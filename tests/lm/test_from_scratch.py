import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

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
    report = train_small_lm(other_shape, questions, finetune, LMConfig(name=str(base)))
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
    gone = LMConfig(name=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="found no folder .*nowhere.*correct finetune_from"):
        train_small_lm(CONFIG, texts, tmp_path / "lm", gone)


def test_any_model_is_finetuned_on_sequences_that_it_takes(tmp_path: Path) -> None:
    train_small_lm(CONFIG, texts, tmp_path / "tokens")  # whose tokenizer it has
    shape = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 12}
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("gpt2", vocab_size=300, bos_token_id=0, **shape)
    )
    model.save_pretrained(tmp_path / "gpt2")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokens")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    base = LMConfig(name=str(tmp_path / "gpt2"))
    report = train_small_lm(CONFIG, texts, tmp_path / "lm", base)
    assert report["config"]["sequence_length"] == 12
    assert report["held_out_loss"] < report["loss_before"] - 0.5
    assert load_lm(LMConfig(name=str(tmp_path / "lm"))).model.config.model_type == "gpt2"


def test_what_was_interrupted_goes_on_and_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_small_lm(CONFIG, texts, tmp_path / "whole")
    steps: list[int] = []

    def loss(*given: Any) -> Tensor:
        if torch.is_grad_enabled():
            steps.append(1)
            if len(steps) == 50:
                raise KeyboardInterrupt
        return real_loss(*given)

    real_loss = module._loss
    monkeypatch.setattr(module, "_SAVE_EVERY_STEPS", 20)
    monkeypatch.setattr(module, "_loss", loss)
    with pytest.raises(KeyboardInterrupt):
        train_small_lm(CONFIG, texts, tmp_path / "lm")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lm.partial", "whole"]
    shutil.copy(tmp_path / "lm.partial", tmp_path / "other.partial")

    resumed = train_small_lm(CONFIG, texts, tmp_path / "lm")
    assert len(steps) == 50 + 60 - 40
    assert resumed["held_out_loss"] == pytest.approx(whole["held_out_loss"], rel=1e-4)
    assert not (tmp_path / "lm.partial").exists()
    train_small_lm(replace(CONFIG, seed=1), texts, tmp_path / "other")  # another's is left
    assert len(steps) == 70 + 60


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
