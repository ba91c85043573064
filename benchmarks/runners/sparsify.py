"""sparsify: the lines of its command, which wants a GPU, on a CPU; and its `Trainer.fit`.

`adam` is its option with that name; `signum` is what it does by default, at its own rate.
"""

from pathlib import Path
from typing import Literal

from datasets import load_dataset
from sparsify import SparseCoder, SparseCoderConfig, TrainConfig, Trainer
from sparsify.data import chunk_and_tokenize
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from benchmarks.runners.job import Job, Phases


def _train(job: Job, phases: Phases, name: Literal["adam", "signum"]) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(job.lm)
    with phases("tokenise"):
        text = load_dataset("json", data_files=job.text, split="train", cache_dir=job.to)
        tokens = chunk_and_tokenize(text, tokenizer, max_seq_len=job.length)
    tokens = tokens.shuffle(42).with_format("torch").select(range(job.tokens // job.length))
    model = AutoModel.from_pretrained(job.lm)
    config = TrainConfig(
        SparseCoderConfig(num_latents=job.num_latents, k=job.k),
        batch_size=job.batch_sequences,
        optimizer=name,
        lr=job.lr if name == "adam" else None,
        lr_warmup_steps=job.warmup_steps,
        exclude_tokens=tokenizer.all_special_ids,
        hookpoints=[f"layers.{job.layer}"],
        save_every=job.num_steps + 2,
        save_dir=job.to,
        run_name="run",
        log_to_wandb=False,
    )
    trainer = Trainer(config, tokens, model)
    SparseCoder.forward = phases.timed("train", SparseCoder.forward)
    Tensor.backward = phases.timed("train", Tensor.backward)
    for optimizer in trainer.optimizers:
        optimizer.step = phases.timed("train", optimizer.step)
    with phases("language model"):
        trainer.fit()
    phases["language model"] -= phases["train"]  # which happens within its passes
    return job.folder / "run" / f"layers.{job.layer}"


def adam(job: Job, phases: Phases) -> Path:
    """With Adam."""
    return _train(job, phases, "adam")


def signum(job: Job, phases: Phases) -> Path:
    """With SignSGD in a wrapper without schedule."""
    return _train(job, phases, "signum")
