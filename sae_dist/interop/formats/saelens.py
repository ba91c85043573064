"""SAELens 6.x: a folder with `cfg.json` and `sae_weights.safetensors`.

    SAE.load_from_disk(folder)

There W_enc is [D, F]. Its `decode` leaves W_skip out; only its `forward` has it.
"""

import re
from pathlib import Path
from typing import Any

from sae_dist.coders import Coder, CoderConfig, FiresBy, Form, JumpReLU, TopK
from sae_dist.coders.files import write_tensors
from sae_dist.common.files import described_by
from sae_dist.common.hooks import hook_name, site_of
from sae_dist.interop.format import Format
from sae_dist.interop.published import (
    ForeignCoder,
    plain_tensors,
    read_tensors,
    transposed,
    unusable,
)
from sae_dist.interop.settings import TEXT, Understood, read_settings, require_understood

_VERSION = "6.0.0"  # settings of an older version, or of none, would be converted
_JUMPRELU = {
    Form.autoencoder: "jumprelu",
    Form.transcoder: "jumprelu_transcoder",
    Form.skip_transcoder: "jumprelu_skip_transcoder",
}
_RELU = {
    "standard": Form.autoencoder,
    "transcoder": Form.transcoder,
    "skip_transcoder": Form.skip_transcoder,
}
_FORMS = {
    **{architecture: form for form, architecture in _JUMPRELU.items()},
    **_RELU,
    **dict.fromkeys(("topk", "gated"), Form.autoencoder),
}
_DTYPES = ("float32", "float64", "float16", "bfloat16")
_HOOKS = {
    **dict.fromkeys(("hook_name", "hook_name_out"), (TEXT, None)),
    **dict.fromkeys(("hook_head_index", "hook_head_index_out"), (None,)),
    "sae_lens_version": (TEXT, None),
}
_UNDERSTOOD: Understood = {
    "architecture": tuple(_FORMS),
    **dict.fromkeys(("d_in", "d_out", "k"), (int,)),
    "d_sae": (int, None),
    "apply_b_dec_to_input": (bool,),
    "rescale_acts_by_decoder_norm": (bool,),
    "normalize_activations": ("none", None, False),
    "reshape_activations": ("none", "hook_z"),  # heads side by side, as ours always are
    "use_error_term": (False,),
    "dtype": (*_DTYPES, *(f"torch.{name}" for name in _DTYPES)),
    **_HOOKS,
    "metadata": (_HOOKS, None),
}
_BEFORE_6: Understood = {
    "activation_fn": ("relu", "topk"),
    "activation_fn_kwargs": ({"k": (int,), "signed": (False,)}, None),
}
_RENAMED = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
# How it was trained and on what, in all versions since 0.5: SAELens 6.54 computes the same with any
# of these. Whether activations are scaled after finetuning, the tensor itself says.
_NO_BEARING = frozenset(
    """
    act_store_device adam_beta1 adam_beta2 autocast autocast_lm aux_loss_coefficient
    b_dec_init_method cached_activations_path checkpoint_path compile_llm compile_sae context_size
    dataset_path dataset_trust_remote_code dead_feature_threshold dead_feature_window
    decoder_heuristic_init decoder_heuristic_init_norm decoder_init_norm decoder_orthogonal_init
    device disable_concat_sequences eval_batch_size_prompts eval_every_n_wandb_logs
    exclude_special_tokens expansion_factor feature_sampling_window finetuning_method
    finetuning_scaling_factor finetuning_tokens from_pretrained_path hf_hook_name hf_hook_name_out
    hook_eval hook_layer hook_layer_out hook_point_eval hook_point_layer
    init_encoder_as_decoder_transpose is_dataset_tokenized jumprelu_bandwidth
    jumprelu_init_threshold jumprelu_sparsity_loss_mode jumprelu_ste_to_input jumprelu_tanh_scale l0
    l0_coefficient l0_warm_up_steps l1_coefficient l1_warm_up_steps llm_compilation_mode
    log_activations_store_to_wandb log_optimizer_state_to_wandb log_to_wandb lp_norm lr
    lr_decay_steps lr_end lr_scheduler_name lr_warm_up_steps model_class_name
    model_from_pretrained_kwargs model_kwargs model_name mse_loss_normalization n_batches_in_buffer
    n_checkpoints n_eval_batches n_restart_cycles neuronpedia_id noise_scale normalize_sae_decoder
    num_dead_features pre_act_loss_coefficient prepend_bos resume run_name sae_compilation_mode
    sae_lens_training_version scale_sparsity_penalty_by_decoder_norm seed seqpos_slice
    sequence_separator_token store_batch_size store_batch_size_prompts streaming target_l0
    tokens_per_buffer topk_threshold_lr train_batch_size train_batch_size_tokens
    training_architecture training_architecture_details training_tokens use_cached_activations
    use_ghost_grads use_sparse_activations verbose wandb_entity wandb_id wandb_log_frequency
    wandb_project
    """.split()
)


class SAELens(Format):
    """`cfg.json` and `sae_weights.safetensors`."""

    name = "saelens"
    title = "SAELens"
    library = "saelens"
    files = settings, weights = "cfg.json", "sae_weights.safetensors"
    loading = """\
from sae_lens import SAE

sae = SAE.from_pretrained("{repo}", "{path}")  # or SAE.load_from_disk("{path}")
acts = sae.encode(x)  # of the hook in sae.cfg.metadata; see from_pretrained_no_processing
y = sae(x)
"""
    fires_by = FiresBy.rank, FiresBy.thresholds, FiresBy.threshold

    def unsupported_reason(
        self, config: CoderConfig, d_in: int, d_out: int, about: dict[str, Any]
    ) -> str | None:
        if reason := super().unsupported_reason(config, d_in, d_out, about):
            return reason
        if config.form is Form.autoencoder:
            return None
        if config.fires_by is FiresBy.rank:
            return f"SAELens has no {config.title} {config.form.replace('_', ' ')}"
        joins_heads = _joins_heads(about["site"], about["target"])
        return "SAELens joins the heads of attn_z for autoencoders alone" if joins_heads else None

    def write(self, folder: Path, coder: Coder, about: dict[str, Any]) -> None:
        """Write a coder; one threshold of all latents becomes a JumpReLU's."""
        tensors = plain_tensors(coder)
        tensors["W_enc"] = tensors["W_enc"].T
        config = coder.config
        is_topk = config.fires_by is FiresBy.rank
        settings: dict[str, Any] = {
            "architecture": "topk" if is_topk else _JUMPRELU[config.form],
            "d_in": coder.d_in,
            "d_sae": config.num_latents,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": False,
            "normalize_activations": "none",
            "reshape_activations": "hook_z" if _joins_heads(about["site"]) else "none",
            "metadata": _metadata(about),
        }
        if is_topk:
            settings |= {**config.aim, "rescale_acts_by_decoder_norm": False}
        if config.form is not Form.autoencoder:
            settings["d_out"] = coder.d_out
        with described_by(folder / self.settings, settings):
            write_tensors(folder / self.weights, tensors)

    def read(self, weights: Path) -> ForeignCoder:
        """Read a coder that runs without training: jumprelu, topk, standard, gated, transcoders.

        Files of SAELens before 6 are read as 6.54 reads them.

        Raises:
            UserError: settings that have no equal here, or unusable files.
        """
        path = weights.with_name(self.settings)
        settings = _understood(path, read_settings(path))
        architecture = settings.get("architecture", "standard")
        form, is_topk = _FORMS[architecture], architecture == "topk"
        if is_topk and "k" not in settings:
            raise unusable(path, "a topk without k")
        pre_bias = settings.get("apply_b_dec_to_input", True)
        if pre_bias and form is not Form.autoencoder:
            raise unusable(path, f"a {architecture} whose apply_b_dec_to_input is not false")
        tensors = read_tensors(weights)
        if "scaling_factor" in tensors and bool((tensors["scaling_factor"] == 1).all()):
            del tensors["scaling_factor"]  # SAELens wrote ones for a while, and drops them
        hooks = {**settings, **(settings.get("metadata") or {})}
        site = site_of(hooks.get("hook_name") or "")
        return ForeignCoder(
            kind=TopK if is_topk else JumpReLU,
            settings={"k": settings["k"]} if is_topk else {},
            form=form,
            tensors=transposed(tensors, "W_enc"),
            widths=(settings.get("d_in"), settings.get("d_sae"), settings.get("d_out")),
            pre_bias=pre_bias,
            is_relu=architecture in _RELU,
            is_gated=architecture == "gated",
            scales_by_decoder=is_topk and settings.get("rescale_acts_by_decoder_norm", False),
            about={"site": site, "target": site_of(hooks.get("hook_name_out") or site)},
        )


def _joins_heads(*sites: str) -> bool:
    """Whether there is attn_z among them: that is hook_z with the heads side by side."""
    return any(site.startswith("attn_z.") for site in sites)


def _metadata(about: dict[str, Any]) -> dict[str, Any]:
    source = about.get("source") or {}
    lm, text = source.get("lm") or {}, source.get("text") or {}
    is_transcoder = about["target"] != about["site"]
    folds_norms = not lm or bool(lm.get("fold_norms"))  # of an unknown one, as others publish it
    return {
        "sae_lens_version": _VERSION,
        "sae_lens_training_version": None,
        "model_name": lm.get("name"),
        "hook_name": hook_name(about["site"], folds_norms=folds_norms),
        "hook_name_out": (
            hook_name(about["target"], folds_norms=folds_norms) if is_transcoder else None
        ),
        "hook_head_index": None,
        "context_size": text.get("sequence_length"),
        "prepend_bos": True,
        "dataset_path": text.get("path"),
        "model_from_pretrained_kwargs": {},
        "neuronpedia_id": None,
    }


def _understood(path: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Settings that are all understood; those of a version before 6 in today's words."""
    metadata = found.get("metadata")
    versions = [found, metadata if isinstance(metadata, dict) else {}]
    version = next((v for v in (s.get("sae_lens_version") for s in versions) if v), None)
    if version and not re.match(r"[0-5](\.|$)", str(version)):
        require_understood(path, found, _UNDERSTOOD, _NO_BEARING)
        return found
    settings = {_RENAMED.get(key, key): value for key, value in found.items()}
    require_understood(path, settings, {**_UNDERSTOOD, **_BEFORE_6}, _NO_BEARING)
    activation = settings.get("activation_fn", "relu")
    k = (settings.get("activation_fn_kwargs") or {}).get("k")
    if activation == "topk":
        if settings.get("architecture", "standard") not in ("standard", "topk") or k is None:
            raise unusable(path, f"activation_fn=topk, k={k}, of a {settings.get('architecture')}")
        settings["architecture"] = "topk"
    if settings.get("architecture") == "topk" and k is not None:
        settings["k"] = k
    return settings
