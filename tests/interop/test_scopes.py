"""Readers of what was published, beside dense formulas; in `test_clients.py` beside SAELens."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_dist.coders import Form, save_coder
from sae_dist.common.errors import UserError
from sae_dist.handoff.circuit_tracer import CircuitTracer
from sae_dist.interop import format_named, import_foreign, load_coder
from tests.interop.scopes import (
    SCOPES,
    D,
    E,
    F,
    Published,
    circuit_tracer,
    drawn,
    gated,
    gemma_scope_2,
    goodfire,
    llama_scope,
    llama_scope_r1,
    put,
    qwen_scope,
    x_BD,
)
from tests.interop.test_formats import folded


@pytest.mark.parametrize("sort", SCOPES)
def test_what_was_published_gives_what_its_formula_says(sort: str, tmp_path: Path) -> None:
    published = SCOPES[sort](tmp_path / "theirs")
    coder = load_coder(published.path)
    acts_BF = coder.encode(x_BD())
    assert torch.equal(acts_BF != 0, published.acts_BF != 0)
    assert 0.01 < (acts_BF != 0).float().mean() < 0.7
    for found, expected in ((acts_BF, published.acts_BF), (coder(x_BD()), published.y_BE)):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
    about = import_foreign(published.path, tmp_path / "ours", None, None, None)["about"]
    assert (about["site"], about["target"]) == (published.site, published.target)
    halves = [load_coder(published.path, part=part, parts=2) for part in range(2)]
    joined = torch.cat([half.pre_activations(x_BD()) for half in halves], dim=1)
    torch.testing.assert_close(joined, coder.pre_activations(x_BD()))


def test_a_gate_and_its_magnitude_may_disagree(tmp_path: Path) -> None:
    """Of some latents the gate opens where the magnitude is below 0, of others it stays shut."""
    published = gated(tmp_path)
    coder = load_coder(tmp_path)
    assert (coder.threshold == 0).any() and (coder.threshold > 0.5).any()
    assert torch.equal(coder.encode(x_BD()) != 0, published.acts_BF != 0)


def test_gemma_scope_2_without_settings_is_known_by_its_tensors(tmp_path: Path) -> None:
    for d_out, form in ((D, Form.autoencoder), (E, Form.skip_transcoder)):
        published = gemma_scope_2(tmp_path / form, d_out)
        (tmp_path / form / "config.json").unlink()
        coder = load_coder(tmp_path / form)
        assert coder.config.form is form
        torch.testing.assert_close(coder(x_BD()), published.y_BE, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="does not say what it was trained on"):
        import_foreign(tmp_path / Form.autoencoder, tmp_path / "ours", None, None, None)


def test_gemma_scope_2s_folders_and_settings_are_as_published(tmp_path: Path) -> None:
    scope = format_named("gemma_scope_2")
    sites = {"resid_post": "resid_post", "mlp_out": "mlp_out", "attn_z": "attn_out"}
    of = {"config": {"num_latents": 2**18, "form": "autoencoder"}}
    for site, part in sites.items():
        place = scope.place("rung", {**of, "about": {"site": f"{site}.17"}}, 59.7)
        assert place == f"{part}/layer_17_width_262k_l0_60"
    of = {"config": {"num_latents": 2**14, "form": "skip_transcoder"}}
    found = scope.place("rung", {**of, "about": {"site": "mlp_in.3"}}, 10.0)
    assert found == "transcoder/layer_3_width_16k_l0_10_affine"
    with pytest.raises(UserError, match="Gemma Scope 2's folders are named by L0"):
        scope.place("rung", {**of, "about": {"site": "mlp_in.3"}}, None)
    about = {"site": "mlp_in.3", "target": "mlp_out.3", "source": {"lm": {"name": "google/gemma"}}}
    coder, _ = folded("jumprelu", Form.skip_transcoder)
    scope.write(tmp_path / "ours", coder, about)
    theirs = gemma_scope_2(tmp_path / "theirs", E, model_name="google/gemma", width=24).path
    settings = [
        json.loads((path / "config.json").read_text()) for path in (tmp_path / "ours", theirs)
    ]
    assert settings[0] == {k: v for k, v in settings[1].items() if k != "l0"}
    names = [set(load_file(path / scope.weights)) for path in (tmp_path / "ours", theirs)]
    assert names[0] == names[1]
    reason = scope.unsupported_reason(coder.config, 8, 8, {"site": "embed", "target": "embed"})
    assert reason == "Gemma Scope 2 has no name for embed"


def test_qwen_scopes_k_is_its_settings_or_its_repositorys_names(tmp_path: Path) -> None:
    published = qwen_scope(tmp_path / "models--Qwen--SAE-Res-Qwen3-1.7B-Base-W1K-L0_7/snapshots/a")
    settings = published.path / "config.json"
    assert load_coder(published.path).config.k == 5
    settings.unlink()
    with pytest.raises(UserError, match=f"16 → {F} → 16, where its settings say 1024"):
        load_coder(published.path)
    qwen_scope(tmp_path / "elsewhere").path.joinpath("config.json").unlink()
    with pytest.raises(UserError, match="no k for .*expected config.json beside it, or a folder"):
        load_coder(tmp_path / "elsewhere")
    wide = {name: torch.zeros(shape) for name, shape in {"b_enc": (1024,), "b_dec": (4,)}.items()}
    wide |= {"W_enc": torch.zeros(1024, 4), "W_dec": torch.zeros(4, 1024)}
    put(published.path, "layer3.sae.pt", wide)
    assert load_coder(published.path / "layer3.sae.pt").config.k == 7


def test_of_several_coders_in_a_folder_one_is_named_by_its_file(tmp_path: Path) -> None:
    published = qwen_scope(tmp_path)
    (tmp_path / "layer11.sae.pt").write_bytes((tmp_path / "layer3.sae.pt").read_bytes())
    with pytest.raises(UserError, match=r"found 2 coders in .*layer11\.sae\.pt .*; name its file"):
        load_coder(tmp_path)
    description = import_foreign(tmp_path / "layer11.sae.pt", tmp_path / "ours", None, None, None)
    assert description["about"]["site"] == "resid_post.11"
    y_BD = load_coder(tmp_path / "layer3.sae.pt")(x_BD())
    torch.testing.assert_close(y_BD, published.y_BE, rtol=1e-4, atol=1e-4)


def test_a_coder_may_be_named_by_its_file_in_any_format(tmp_path: Path) -> None:
    published = llama_scope(tmp_path)
    found = load_coder(tmp_path / "checkpoints/final.safetensors")
    torch.testing.assert_close(found(x_BD()), published.y_BE, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="no coder in .*hyperparams.json"):
        load_coder(tmp_path / "hyperparams.json")


def test_all_layers_of_a_run_are_one_set_and_each_is_read_back(tmp_path: Path) -> None:
    run, coders = tmp_path / "run", {}
    for layer in range(3):
        coder, x = folded("jumprelu", Form.transcoder)
        coder.b_enc += layer
        coders[f"rung-{layer}"] = coder
        about = {"site": f"mlp_in.{layer}", "target": f"mlp_out.{layer}"}
        save_coder(run / "coders" / f"rung-{layer}", coder, coder.state_dict(), about)
    CircuitTracer().write(tmp_path / "set", run, list(coders), None)
    for layer, coder in enumerate(coders.values()):
        file = tmp_path / f"set/layer_{layer}.safetensors"
        assert torch.equal(load_coder(file)(x), coder(x))
        about = import_foreign(file, tmp_path / f"ours-{layer}", None, None, None)["about"]
        assert (about["site"], about["target"]) == (f"mlp_in.{layer}", f"mlp_out.{layer}")


Harm = Callable[[Path], Any]


def settings(**changes: Any) -> Harm:
    """Put these values into the settings; None takes one out."""

    def harm(folder: Path) -> None:
        (path,) = folder.rglob("*.json")
        found = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({k: v for k, v in found.items() if v is not None}))

    return harm


def tensor(name: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> Harm:
    """Put a changed tensor in the place of one; None takes it out."""

    def harm(folder: Path) -> None:
        files = (path for path in folder.rglob("*") if path.is_file())
        (path,) = (path for path in files if path.suffix not in (".json", ".yaml"))
        is_pickle = path.suffix != ".safetensors"
        found = torch.load(path) if is_pickle else load_file(path)
        changed = change(found.pop(name))
        found |= {} if changed is None else {name: changed.contiguous()}
        torch.save(found, path) if is_pickle else save_file(found, path)

    return harm


def yaml(text: str) -> Harm:
    return lambda folder: (folder / "config.yaml").write_text(text)


def absent(_: torch.Tensor) -> None:
    return None


def not_a_number(found: torch.Tensor) -> torch.Tensor:
    return torch.full_like(found, torch.nan)


REFUSED: list[tuple[Callable[[Path], Published], Harm, str]] = [
    (gemma_scope_2, settings(type="crosscoder"), 'type="crosscoder".*"sae" or "transcoder"'),
    (gemma_scope_2, settings(type="clt"), 'type="clt"'),
    (gemma_scope_2, settings(architecture="topk"), 'architecture="topk"'),
    (gemma_scope_2, settings(affine_connection=True), r"W_skip absent instead of \[16, 16\]"),
    (gemma_scope_2, settings(width=F + 1), "where its settings say 65"),
    (gemma_scope_2, settings(normalize=True), "normalize=true.*not known"),
    (gemma_scope_2, tensor("w_enc", absent), "tensors W_dec"),
    (gemma_scope_2, tensor("w_dec", lambda t: t.T), "16 → 64 → 64"),
    (gemma_scope_2, tensor("b_enc", not_a_number), "b_enc is not finite"),
    (llama_scope, settings(act_fn="topk"), 'act_fn="topk"'),
    (llama_scope, settings(norm_activation="token-wise"), 'norm_activation="token-wise"'),
    (llama_scope, settings(apply_decoder_bias_to_pre_encoder=True), "pre_encoder=true"),
    (llama_scope, settings(sparsity_include_decoder_norm=False), "decoder_norm=false.*true"),
    (llama_scope, settings(use_glu_encoder=True), "use_glu_encoder=true"),
    (llama_scope, settings(jump_relu_threshold=None), "KeyError: 'jump_relu_threshold'"),
    (
        llama_scope,
        settings(dataset_average_activation_norm={"in": 0.0, "out": 1.0}),
        r"dataset_average_activation_norm \(0.0, 1.0\)",
    ),
    (llama_scope, settings(d_model=D + 1), r"decoder.bias \[16\] instead of \[17\]"),
    (llama_scope, settings(d_sae=None), "KeyError: 'd_sae'"),
    (llama_scope, tensor("encoder.weight", absent), "encoder.weight absent instead of"),
    (llama_scope, tensor("encoder.bias", lambda t: t[:1]), r"encoder.bias \[1\] instead of"),
    (llama_scope, tensor("decoder.weight", not_a_number), "W_dec is not finite"),
    (llama_scope_r1, tensor("log_jumprelu_threshold", absent), "KeyError: 'log_jumprelu_thresh"),
    (llama_scope_r1, tensor("log_jumprelu_threshold", lambda t: t[:7]), "RuntimeError"),
    (llama_scope_r1, settings(hook_point_in="blocks.4.hook_mlp_out"), "KeyError: 'dataset_average"),
    (qwen_scope, settings(k=F + 1), f"k={F + 1}; expected 1 to coder.num_latents={F}"),
    (qwen_scope, settings(k="5"), 'k="5".*a whole number'),
    (qwen_scope, settings(hook_point="mlp_out"), 'hook_point="mlp_out"'),
    (qwen_scope, settings(d_sae=F + 1), "where its settings say 65"),
    (qwen_scope, tensor("b_dec", absent), r"b_dec absent instead of \[16\]"),
    (qwen_scope, tensor("W_dec", lambda t: t.long()), "W_dec of torch.int64"),
    (goodfire, tensor("decoder_linear.bias", absent), "tensors decoder_linear.weight, encoder"),
    (goodfire, tensor("encoder_linear.weight", not_a_number), "W_enc is not finite"),
    (circuit_tracer, tensor("W_enc", absent), "tensors W_dec"),
    (circuit_tracer, tensor("W_skip", lambda t: t[:3]), r"W_skip \[3, 16\] instead of \[16, 16\]"),
    (circuit_tracer, yaml("activation: topk"), 'activation="topk".*not known'),
    (circuit_tracer, yaml("[1"), "config.yaml unusable .ParserError"),
    (circuit_tracer, yaml("model_kind: clt"), 'model_kind="clt".*"transcoder_set"'),
    (gated, tensor("r_mag", lambda t: t[:3]), r"r_mag \[3\] instead of \[64\]"),
    (gated, tensor("r_mag", lambda t: t * 1000), "is not finite"),
    (gated, tensor("gate_bias", absent), "which are not of a GatedAutoEncoder"),
]


@pytest.mark.parametrize(("publish", "harm", "told"), REFUSED)
def test_what_has_no_meaning_here_is_refused_in_one_line(
    publish: Callable[[Path], Published], harm: Harm, told: str, tmp_path: Path
) -> None:
    harm(publish(tmp_path).path)
    with pytest.raises(UserError, match=told) as error:
        load_coder(tmp_path)
    assert str(error.value).isprintable() and "expected" in str(error.value)


def test_a_latent_without_a_decoder_row_never_fires(tmp_path: Path) -> None:
    llama_scope(tmp_path)
    coder = load_coder(tmp_path)
    assert (drawn()["W_dec"][3] != 0).all() and (coder.W_dec[3] == 0).all()
    assert (coder.encode(100 * x_BD())[:, 3] == 0).all()
