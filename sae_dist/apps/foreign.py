"""What other libraries call our keys: said where one of their names is typed.

SAELens 6, sparsify 1.3, dictionary_learning 0.1 and transformers; `docs/guides/coming_from.md`
says how the meanings differ.
"""

_THEIRS = {  # by our keys; where there are two, the second is another command's
    # the coder
    "coder.num_latents": "d_sae dict_size dictionary_size n_features width",
    "expansion": "expansion_factor",
    "coder": "architecture activation activation_fn trainer transcode skip_connection",
    "coder.sparsity_coefficient": "l1_coefficient l1_penalty l0_coefficient l0_penalty "
    "sparsity_penalty",
    "coder.bandwidth": "jumprelu_bandwidth",
    "coder.initial_threshold": "jumprelu_init_threshold",
    "coder.initial_encoder_norm": "decoder_init_norm",
    "coder.unit_norm_decoder": "normalize_decoder",
    "coder.aux_coefficient": "aux_loss_coefficient auxk_alpha",
    "coder.dead_after_tokens": "dead_feature_window dead_feature_threshold",
    # its training
    "optim.lr": "learning_rate",
    "optim": "optimizer",
    "optim.beta1": "adam_beta1",
    "optim.beta2": "adam_beta2",
    "optim.warmup_steps": "lr_warm_up_steps lr_warmup_steps",
    "optim.decay_share": "lr_decay_steps decay_start",
    "optim.sparsity_warmup_steps": "l1_warm_up_steps l0_warm_up_steps",
    "optim.clip_norm": "grad_clip max_grad_norm",
    "tokens": "training_tokens max_tokens num_tokens total_training_tokens steps",
    "batch_tokens": "train_batch_size_tokens train_batch_size_samples train_batch_size "
    "sae_batch_size out_batch_size",
    "batch_tokens harvest.batch_sequences": "batch_size",
    "stream.bucket_tokens": "n_batches_in_buffer activations_mixing_fraction",
    "seed": "init_seeds",
    "checkpoint.every_steps": "n_checkpoints save_steps save_every",
    "resume": "resume_from_checkpoint",
    "init_from": "from_pretrained_path finetune",
    "runs": "checkpoint_path save_dir",
    "run": "run_name",
    "parallel.latent": "distribute_modules",
    # its log
    "log.wandb": "log_to_wandb use_wandb",
    "log.project": "wandb_project",
    "log.entity": "wandb_entity",
    "log.every_steps": "wandb_log_frequency log_steps",
    # where activations come from
    "sites site": "hook_name hook_point hook_layer hookpoint hookpoints layer layers submodule",
    "store": "use_cached_activations",
    "lm.name": "model model_name lm_name",
    "text.path": "dataset dataset_path",
    "text.sequence_length": "context_size ctx_len max_seq_len seq_len",
    "text.exclude_prefix": "seqpos_slice",
    "text.column": "text_key",
    "harvest.batch_sequences": "store_batch_size_prompts n_ctxs",
    # giving away
    "push": "hf_repo_id push_to_hub",
}
KEYS = {name: key.split() for key, names in _THEIRS.items() for name in names.split()}


def ours(name: str) -> list[str]:
    """What a key is called here, by the last part of its name; nothing where nobody has it."""
    return KEYS.get(name.rpartition(".")[2].lower(), [])
