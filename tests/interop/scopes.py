"""Coders as their publishers' files have them, with what a dense formula of our own gives."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import relu

D, E, F, K = 16, 12, 64, 5


def x_BD() -> Tensor:
    return torch.randn(200, D, generator=torch.Generator().manual_seed(1))


@dataclass
class Published:
    """Where a coder lies, what it gives of `x_BD`, and where it is said to read and write."""

    path: Path
    acts_BF: Tensor
    y_BE: Tensor
    site: str = "resid_post.3"
    target: str = "resid_post.3"


def drawn(d_out: int = D) -> dict[str, Tensor]:
    """Matrices [from, to], their biases, thresholds above 0."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (D, F), "b_enc": (F,), "W_dec": (F, d_out), "b_dec": (d_out,)}
    shapes |= {"threshold": (F,), "A": (D, d_out)}
    found = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {**found, "threshold": found["threshold"].abs()}


def put(folder: Path, file: str, tensors: dict[str, Tensor], **settings: dict[str, Any]) -> Path:
    """Write weights, and settings by the name of their file, with _ for a dot."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    torch.save(whole, path) if ".pt" in file else save_file(whole, path)
    for name, values in settings.items():
        (folder / name.replace("_json", ".json")).write_text(json.dumps(values))
    return path


def jumprelu(t: dict[str, Tensor]) -> Tensor:
    z_BF = x_BD() @ t["W_enc"] + t["b_enc"]
    return relu(z_BF) * (z_BF > t["threshold"])


def gemma_scope_2(folder: Path, d_out: int = D, **changes: Any) -> Published:
    """An autoencoder, or with another width out a skip transcoder."""
    t, is_transcoder = drawn(d_out), d_out != D
    hooks = ["pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"]
    into, out = hooks if is_transcoder else ["output", "output"]
    settings = {"hf_hook_point_in": f"model.layers.3.{into}", "architecture": "jump_relu"}
    settings |= {"hf_hook_point_out": f"model.layers.3.{out}", "width": F, "l0": 60}
    settings |= {"model_name": "google/gemma-3-4b-pt", "affine_connection": is_transcoder}
    settings |= {"type": "transcoder" if is_transcoder else "sae", **changes}
    tensors = {"w_enc": t["W_enc"], "w_dec": t["W_dec"], "threshold": t["threshold"]}
    tensors |= {name: t[name] for name in ("b_enc", "b_dec")}
    tensors |= {"affine_skip_connection": t["A"]} if is_transcoder else {}
    put(folder, "params.safetensors", tensors, config_json=settings)
    acts_BF = jumprelu(t)
    y_BE = acts_BF @ t["W_dec"] + t["b_dec"]
    if not is_transcoder:
        return Published(folder, acts_BF, y_BE)
    return Published(folder, acts_BF, y_BE + x_BD() @ t["A"], "mlp_in.3", "mlp_out.3")


NORMS = {"in": 6.0, "out": 2.5}


def llama_scope(
    folder: Path, norms: dict[str, float] = NORMS, *, is_unit: bool = False, **changes: Any
) -> Published:
    """As lm_saes' code reads: scaled inputs, θ of raw outputs, and outputs that are scaled back."""
    t, theta = drawn(), 0.7
    t["W_dec"][3] = 0
    if is_unit:
        t["W_dec"] = torch.nn.functional.normalize(drawn()["W_dec"], dim=1)
    into, out = (D**0.5 / norms[end] for end in ("in", "out"))
    settings = {"d_model": D, "d_sae": F, "act_fn": "jumprelu", "norm_activation": "dataset-wise"}
    settings |= {"hook_point_in": "blocks.3.hook_resid_post", "top_k": K, "lp": 1}
    settings |= {"hook_point_out": "blocks.3.hook_resid_post", "use_glu_encoder": False}
    settings |= {"jump_relu_threshold": theta, "dataset_average_activation_norm": norms}
    settings |= {"sparsity_include_decoder_norm": True, "dtype": "torch.bfloat16", **changes}
    tensors = {"encoder.weight": t["W_enc"].T, "encoder.bias": t["b_enc"]}
    tensors |= {"decoder.weight": t["W_dec"].T, "decoder.bias": t["b_dec"]}
    put(folder, "checkpoints/final.safetensors", tensors, hyperparams_json=settings)
    raw_BF = x_BD() @ t["W_enc"] + t["b_enc"] / into  # as it is standardised for raw inputs
    raw_FD = t["W_dec"] * into / out
    raw_BF = raw_BF * (raw_BF * raw_FD.norm(dim=1) > theta)
    return Published(folder, into * raw_BF, raw_BF @ raw_FD + t["b_dec"] / out)


def llama_scope_r1(folder: Path, **changes: Any) -> Published:
    """Thresholds a latent, of scaled activations; the norms are among the tensors."""
    t, norm = drawn(), "dataset_average_activation_norm"
    read, written = "blocks.3.ln2.hook_normalized", "blocks.3.hook_mlp_out"
    settings = {"sae_type": "sae", "d_model": D, "expansion_factor": F / D, "act_fn": "jumprelu"}
    settings |= {"hook_point_in": read, "hook_point_out": written, "use_decoder_bias": True}
    settings |= {
        "norm_activation": "dataset-wise",
        "sparsity_include_decoder_norm": True,
        **changes,
    }
    tensors = {"encoder.weight": t["W_enc"].T, "encoder.bias": t["b_enc"]}
    tensors |= {"decoder.weight": t["W_dec"].T, "decoder.bias": t["b_dec"]}
    tensors |= {"log_jumprelu_threshold": t["threshold"].log()}
    tensors |= {f"{norm}.{read}": torch.tensor(6.0), f"{norm}.{written}": torch.tensor(2.5)}
    put(folder, "sae_weights.safetensors", tensors, config_json=settings)
    into, out = D**0.5 / 6.0, D**0.5 / 2.5
    z_BF = into * x_BD() @ t["W_enc"] + t["b_enc"]
    acts_BF = relu(z_BF) * (z_BF * t["W_dec"].norm(dim=1) > t["threshold"])
    y_BD = (acts_BF @ t["W_dec"] + t["b_dec"]) / out
    return Published(folder, acts_BF, y_BD, "mlp_in.3", "mlp_out.3")


def qwen_scope(folder: Path, **changes: Any) -> Published:
    t = drawn()
    settings = {"model_type": "topk_sae", "base_model": "Qwen/Qwen3-1.7B-Base", "d_model": D}
    settings |= {"d_sae": F, "k": K, "num_layers": 28, "hook_point": "resid_post"}
    settings |= {"dtype": "float32", **changes}
    tensors = {"W_enc": t["W_enc"].T, "W_dec": t["W_dec"].T, "b_enc": t["b_enc"]}
    put(folder, "layer3.sae.pt", {**tensors, "b_dec": t["b_dec"]}, config_json=settings)
    kept = (x_BD() @ t["W_enc"] + t["b_enc"]).topk(K, dim=1)
    acts_BF = torch.zeros(len(x_BD()), F).scatter(1, kept.indices, kept.values)
    return Published(folder, acts_BF, acts_BF @ t["W_dec"] + t["b_dec"])


def goodfire(folder: Path, encoder: str = "encoder_linear") -> Published:
    t, decoder = drawn(), encoder.replace("en", "de", 1)
    tensors = {f"{encoder}.weight": t["W_enc"].T, f"{encoder}.bias": t["b_enc"]}
    tensors |= {f"{decoder}.weight": t["W_dec"].T, f"{decoder}.bias": t["b_dec"]}
    put(folder, "Llama-3.1-8B-Instruct-SAE-l3.pth", tensors)
    acts_BF = relu(x_BD() @ t["W_enc"] + t["b_enc"])
    return Published(folder, acts_BF, acts_BF @ t["W_dec"] + t["b_dec"])


def circuit_tracer(folder: Path, *, has_thresholds: bool = True) -> Published:
    t = drawn()
    tensors = {name: t[name] for name in ("W_dec", "b_enc", "b_dec")}
    tensors |= {"W_enc": t["W_enc"].T, "W_skip": t["A"].T}
    tensors |= {"activation_function.threshold": t["threshold"]} if has_thresholds else {}
    put(folder, "layer_3.safetensors", tensors)
    settings = {"model_name": "Qwen/Qwen3-4B", "model_kind": "transcoder_set", "scan": "some/set"}
    settings |= {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "hook_mlp_out"}
    (folder / "config.yaml").write_text(json.dumps(settings))  # JSON is YAML
    acts_BF = jumprelu(t) if has_thresholds else relu(x_BD() @ t["W_enc"] + t["b_enc"])
    y_BD = acts_BF @ t["W_dec"] + t["b_dec"] + x_BD() @ t["A"]
    return Published(folder, acts_BF, y_BD, "mlp_in.3", "mlp_out.3")


def gated(folder: Path, library: str = "dictionary_learning") -> Published:
    """A gate of its own bias, a magnitude of its own gain and bias, of what is centred by b_dec."""
    t, (r_F, gate_F, mag_F) = drawn(), torch.randn(3, F, generator=torch.Generator().manual_seed(2))
    if library == "saelens":
        tensors = {name: t[name] for name in ("W_enc", "W_dec", "b_dec")}
        tensors |= {"r_mag": r_F, "b_gate": gate_F, "b_mag": mag_F}
        settings = {"architecture": "gated", "d_in": D, "d_sae": F, "apply_b_dec_to_input": True}
        settings |= {"hook_name": "blocks.3.hook_resid_post", "dtype": "float32"}
        settings |= {"metadata": {"sae_lens_version": "6.5.0"}}
        put(folder, "sae_weights.safetensors", tensors, cfg_json=settings)
    else:
        tensors = {"encoder.weight": t["W_enc"].T, "decoder.weight": t["W_dec"].T}
        tensors |= {"decoder_bias": t["b_dec"], "r_mag": r_F, "gate_bias": gate_F}
        trainer = {"dict_class": "GatedAutoEncoder", "activation_dim": D, "dict_size": F}
        trainer |= {"submodule_name": "resid_post_layer_3"}
        settings = {"trainer": trainer, "buffer": {}}
        put(folder, "ae.pt", {**tensors, "mag_bias": mag_F}, config_json=settings)
    u_BF = (x_BD() - t["b_dec"]) @ t["W_enc"]
    acts_BF = (u_BF + gate_F > 0) * relu(r_F.exp() * u_BF + mag_F)
    return Published(folder, acts_BF, acts_BF @ t["W_dec"] + t["b_dec"])


SCOPES: dict[str, Callable[[Path], Published]] = {
    "gemma_scope_2": gemma_scope_2,
    "gemma_scope_2, skip transcoder": lambda folder: gemma_scope_2(folder, E),
    "llama_scope": llama_scope,
    "llama_scope_r1": llama_scope_r1,
    "qwen_scope": qwen_scope,
    "goodfire": goodfire,
    "goodfire, of qresearch": lambda folder: goodfire(folder, "encoder"),
    "circuit_tracer": circuit_tracer,
    "circuit_tracer, ReLU": lambda folder: circuit_tracer(folder, has_thresholds=False),
    "gated, of dictionary_learning": gated,
    "gated, of SAELens": lambda folder: gated(folder, "saelens"),
}
"""Every sort, by the format's name and what it is."""
