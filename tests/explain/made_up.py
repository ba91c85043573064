"""Latents that never were, a tokenizer of their tokens, and what is wanted of them."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sae_dist.explain import Examples, ExplanationConfig, Work
from sae_dist.explain.judges import JUDGES, JudgeConfig
from sae_dist.latents import Latents
from tests.latents.made_up import VOCABULARY, write_made_up

RUNG, LENGTH = "r", 128
LATENTS = list(range(60, 66))  # each fires in some 40 % of the windows of 32 tokens


def tokenizer() -> PreTrainedTokenizerFast:
    """Token i is the word wi."""
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w1"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w0", unk_token="w1")


def write_run(run: Path, **about: Any) -> Latents:
    """The latents of one rung, and their reader."""
    write_made_up(run, {RUNG: 70}, num_sequences=160, length=LENGTH, **about)
    return Latents(run, RUNG)


def judge(name: str, **settings: Any) -> JudgeConfig:
    return JUDGES.named(name)(**settings)


def work(latents: Latents, judge: JudgeConfig, **settings: Any) -> Work:
    settings = {"latents": LATENTS[:3], "control_latents": 1, **settings}
    config = ExplanationConfig(**{k: v for k, v in settings.items() if k != "texts"})
    return Work(
        run=latents.run,
        rung=RUNG,
        coder={"coder": latents.rung.coder},
        examples=Examples(latents, tokenizer(), config.examples, config.seed),
        fired_F=latents.column("fired"),
        config=config,
        judge=judge.who,
        explainer=judge.who,
        texts=settings.get("texts"),
    )
