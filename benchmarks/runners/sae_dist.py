"""This project, by its commands: live, or a harvest and training on its store."""

from pathlib import Path

from benchmarks.runners.job import MIXED_TOKENS, Job, Phases
from sae_dist.apps.command import run

_NAME = "endtoend"
_NEVER = 10**9


def _harvest(job: Job) -> list[str]:
    """What a harvest is told; nothing is held out of what all train on."""
    return [
        f"lm.name={job.lm}",
        f"text.path={job.text}",
        f"text.sequence_length={job.length}",
        f"sites=[resid_post.{job.layer}]",
        f"tokens={job.tokens}",
        f"harvest.batch_sequences={job.batch_sequences}",
        "writer.held_out=0",
    ]


def _train(job: Job, *given: str) -> Path:
    """Train a coder, with the quickstart's first norm and schedule."""
    told = [
        f"run={_NAME}",
        f"runs={job.to}",
        "coder=topk",
        f"coder.num_latents={job.num_latents}",
        f"coder.k={job.k}",
        "coder.initial_encoder_norm=0.1",
        f"batch_tokens={job.batch}",
        f"optim.lr={job.lr}",
        "optim.scale_lr_by_width=false",
        f"optim.warmup_steps={job.warmup_steps}",
        "optim.decay_share=0.5",
        f"stream.bucket_tokens={MIXED_TOKENS}",
        f"checkpoint.every_steps={_NEVER}",
        "log.wandb=disabled",
    ]
    run("train", [*given, *told])
    (coder,) = (job.folder / _NAME / "coders").iterdir()
    return coder


def live(job: Job, phases: Phases) -> Path:
    """The language model runs beside training."""
    with phases("language model beside training"):
        return _train(job, "store=live", *(f"harvest.{told}" for told in _harvest(job)))


def stored(job: Job, phases: Phases) -> Path:
    """A store is filled, then trained on: two commands, here one after the other."""
    store = f"store={job.folder / 'store'}"
    with phases("harvest"):
        run("harvest", [store, *_harvest(job)])
    with phases("train"):
        return _train(job, store)
