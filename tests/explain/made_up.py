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


def word(token: int) -> str:
    """A token's text, of letters alone: 12 is `wbc`."""
    return "w" + "".join(chr(ord("a") + int(digit)) for digit in str(token))


def tokenizer() -> PreTrainedTokenizerFast:
    """Of such words."""
    words = Tokenizer(models.WordLevel({word(i): i for i in range(VOCABULARY)}, unk_token="wb"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="wa", unk_token="wb")


def write_run(run: Path, **about: Any) -> Latents:
    """The latents of one rung, and their reader."""
    write_made_up(run, {RUNG: 70}, num_sequences=160, length=LENGTH, **about)
    return Latents(run, RUNG)


def judge(name: str, **settings: Any) -> JudgeConfig:
    return JUDGES.named(name)(**settings)


def work(
    latents: Latents,
    judge: JudgeConfig,
    *,
    only: list[int] | None = LATENTS[:3],
    texts: dict[int, str] | None = None,
    **settings: Any,
) -> Work:
    config = ExplanationConfig(latents=only, **{"control_latents": 1, **settings})
    return Work(
        run=latents.run,
        rung=RUNG,
        coder={"coder": latents.rung.coder},
        examples=Examples(latents, tokenizer(), config.examples, config.seed),
        fired_F=latents.column("fired"),
        config=config,
        judge=judge.who,
        explainer=judge.who,
        texts=texts,
    )
