"""What is measured, how much of it, and on which mesh."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sae_dist.common.errors import UserError
from sae_dist.common.names import nearest, require_plain
from sae_dist.common.settings import setting, validate
from sae_dist.evaluate.registry import require_measure
from sae_dist.parallel import SharingConfig

if TYPE_CHECKING:
    from sae_dist.parallel import World


@dataclass(kw_only=True, slots=True)
class PairConfig:
    """How rungs of one site and kind are compared, each with the next narrower one of nearest L0.

    So many `sequences` (0: compare none) are read for insertion, and the first `stitch_sequences`
    for stitching, which is slower. From a cosine of `tau` on two latents count as the same.
    """

    sequences: int = setting(1024, min=0)
    stitch_sequences: int = setting(64, min=1)
    tau: float = setting(0.7, above=0, max=1)


BUILT_IN = ("stdlib_packages", "token_kind", "first_letter")  # labelled texts: `tasks.py`


def columns_of(data: str) -> tuple[Path, list[str]]:
    """The file of labelled texts, and its columns of labels: `label` unless they are named."""
    path, colon, columns = data.rpartition(":")
    return Path(path if colon else data).expanduser(), columns.split(",") if colon else ["label"]


def require_data(key: str, data: str) -> None:
    """Raise UserError for labelled texts that are not there."""
    path, columns = columns_of(data)
    if data not in BUILT_IN and not (path.is_file() and len(columns) in (1, 2)):
        raise UserError(
            f"{key}={data}; expected {', '.join(BUILT_IN)}, or a file of .jsonl, perhaps with its "
            f"columns of labels (one or two): FILE:label,attribute{nearest(data, BUILT_IN)}"
        )


@dataclass(kw_only=True, slots=True)
class ProbesConfig:
    """Labelled texts, and how labels are read from latents; published values of SAEBench 0.6.

    `data` names built-in ones (`docs/evaluation.md`) and files of .jsonl with `text` and `label`;
    other columns are named behind a colon (`bios.jsonl:profession,gender`), a second one for SCR.
    Null: all built-in ones where `measures` names what reads them, else none. A probe tells a class
    from the others on up to `train_texts` and `test_texts`, half of them of the class, cut at
    `context` tokens (or what the language model knows), which `seed` draws. Sparse probes read the
    `latents` best ones; SCR and TPP ablate up to `ablated`. Absorption is that of letters whose
    probe has an F1 of more than `min_f1`, if they are `min_letters`.
    """

    data: list[str] | None = setting(None, check=require_data)
    train_texts: int = setting(4000, min=16)
    test_texts: int = setting(1000, min=4)
    context: int = setting(128, min=2)
    latents: list[int] = setting([1, 2, 5], min=1)
    ablated: list[int] = setting([2, 5, 10, 20, 50, 100, 500], min=1)
    min_f1: float = setting(0.6, min=0, below=1)
    min_letters: int = setting(20, min=1, max=26)
    seed: int = setting(0, min=0)


@dataclass(kw_only=True, slots=True)
class EvaluationConfig:
    """What is measured, how much of it, and on which mesh.

    `measures` and `rungs` name some (null: all), rungs also by patterns (`topk-*`); what is there
    already, of the same coder, store and settings, is not measured again. `max_sequences` (null:
    all) bounds the held-out sequences; `lm_sequences` those of them that are also run through the
    language model (0: none), and `uniformity_sequences` those through which it is differentiated
    (0: none), at `uniformity_positions` of each. About `batch_tokens` pass a coder at once, in
    whole sequences, and so many (or `lm_batch_sequences` sequences) the language model, whose
    logits outweigh all else.
    """

    measures: list[str] | None = setting(None, check=require_measure)
    rungs: list[str] | None = None
    max_sequences: int | None = setting(8192, min=1)
    lm_sequences: int = setting(2048, min=0)
    uniformity_sequences: int = setting(64, min=0)
    uniformity_positions: int = setting(8, min=1)
    batch_tokens: int = setting(4096, min=1)
    lm_batch_sequences: int | None = setting(None, min=1)
    parallel: SharingConfig = field(default_factory=SharingConfig)
    pairs: PairConfig = field(default_factory=PairConfig)
    probes: ProbesConfig = field(default_factory=ProbesConfig)


@dataclass(kw_only=True, slots=True)
class TransferConfig:
    """Coders of a run on rollouts of a finetune of its language model; none without `lm_name`.

    `lm_name` (at `lm_revision`, or its `lm_gguf_file`) is the finetune, held as the run's model
    was, with its own code only if `lm_trust_remote_code`. `prompts` is a file: .jsonl with a
    `prompt` or `text`, or lines. Each is cut at `prompt_tokens`, wrapped in `template` (by default
    that of the finetuned run's store) and continued by up to `rollout_tokens`, drawn at
    `temperature`; `sequences` of them, `batch_sequences` at once, prompts in an order that `seed`
    fixes, again and again if they are fewer. The coders of `finetuned_run` are measured beside;
    `finetuned_store` says where its store is now, if elsewhere. Of both runs `rungs` names some
    (null: all), also by patterns.
    """

    lm_name: str | None = None
    lm_revision: str | None = None
    lm_gguf_file: str | None = None
    lm_trust_remote_code: bool = False
    prompts: str | None = None
    template: str | None = None
    finetuned_run: str | None = setting(None, check=require_plain)
    finetuned_store: str | None = None
    rungs: list[str] | None = None
    sequences: int = setting(1024, min=1)
    prompt_tokens: int = setting(512, min=1)
    rollout_tokens: int = setting(256, min=1)
    temperature: float = setting(1.0, above=0)
    batch_sequences: int = setting(16, min=1)
    seed: int = setting(0, min=0)


def check(config: EvaluationConfig, world: "World") -> None:
    """Raise UserError for a setting out of bounds, or a mesh that does not fit the world."""
    validate(config)
    if world.size % config.parallel.latent:
        raise UserError(
            f"parallel.latent={config.parallel.latent} must divide the {world.size} processes; "
            "choose a divisor"
        )
