"""SAELens: its `LanguageModelSAETrainingRunner`, with its sparse option.

TransformerLens loads no model of a folder: the other class that SAELens offers does, and stops the
pass after the layer. Its sparse option goes without its rescaling by decoder norms (both together
fail on a CPU).
"""

from pathlib import Path

import torch
from datasets import load_dataset
from sae_lens import (
    LanguageModelSAERunnerConfig,
    LanguageModelSAETrainingRunner,
    LoggingConfig,
    TopKTrainingSAEConfig,
)
from sae_lens.training.sae_trainer import SAETrainer
from transformers import AutoConfig

from benchmarks.runners.job import MIXED_TOKENS, Job, Phases


def _config(job: Job, *, prefetches: bool) -> LanguageModelSAERunnerConfig[TopKTrainingSAEConfig]:
    return LanguageModelSAERunnerConfig(
        sae=TopKTrainingSAEConfig(
            d_in=AutoConfig.from_pretrained(job.lm).hidden_size,
            d_sae=job.num_latents,
            k=job.k,
            use_sparse_activations=True,
            rescale_acts_by_decoder_norm=False,
        ),
        model_name=job.lm,
        model_class_name="AutoModelForCausalLM",
        hook_name=f"model.layers.{job.layer}",
        is_dataset_tokenized=False,
        streaming=False,
        context_size=job.length,
        training_tokens=job.tokens,
        train_batch_size_tokens=job.batch,
        store_batch_size_prompts=job.batch_sequences,
        n_batches_in_buffer=MIXED_TOKENS // job.length,
        exclude_special_tokens=True,
        prefetch_llm_batches=prefetches,
        lr=job.lr,
        lr_end=job.lr,
        lr_warm_up_steps=job.warmup_steps,
        lr_decay_steps=job.num_steps // 2,
        logger=LoggingConfig(log_to_wandb=False),
        checkpoint_path=None,
        output_path=str(job.folder / "coder"),
    )


def _train(job: Job, phases: Phases, *, prefetches: bool) -> Path:
    torch.set_float32_matmul_precision("medium")
    text = load_dataset("json", data_files=job.text, split="train", cache_dir=job.to)
    config = _config(job, prefetches=prefetches)
    runner = LanguageModelSAETrainingRunner(config, override_dataset=text)
    store = runner.activations_store
    store.get_batch_tokens = phases.timed("tokenise", store.get_batch_tokens)
    store.get_activations = phases.timed("language model", store.get_activations)
    SAETrainer.step = phases.timed("train", SAETrainer.step)
    runner.run()
    return job.folder / "coder"


def sparse(job: Job, phases: Phases) -> Path:
    """The language model and training in turns."""
    return _train(job, phases, prefetches=False)


def prefetch(job: Job, phases: Phases) -> Path:
    """The language model in a thread beside training."""
    return _train(job, phases, prefetches=True)
