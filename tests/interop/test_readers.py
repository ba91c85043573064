"""What readers of other libraries' files make of settings and tensors, or that they refuse them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import relu

from sae_dist.coders import Form, save_coder
from sae_dist.common.errors import UserError
from sae_dist.interop import format_named, load_coder
from tests.interop.test_formats import ABOUT, folded

D, F, K = 16, 64, 5
HOOK = "blocks.3.hook_resid_post"
OLD = {"d_in": D, "d_sae": F, "hook_name": HOOK, "dtype": "torch.float32"}
NEW = {**OLD, "architecture": "topk", "k": K, "metadata": {"sae_lens_version": "6.5.0"}}
TOPK = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
WEIGHTS = {"saelens": "sae_weights.safetensors", "sparsify": "sae.safetensors"}


def x_BD() -> Tensor:
    return torch.randn(200, D, generator=torch.Generator().manual_seed(1))


def weights(*names: str) -> dict[str, Tensor]:
    """Of SAELens, and other vectors [F] by name."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (D, F), "b_enc": (F,), "W_dec": (F, D), "b_dec": (D,)}
    shapes |= dict.fromkeys(names, (F,))
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def put(folder: Path, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    """A folder of SAELens."""
    folder.mkdir(exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(settings))
    save_file(tensors, folder / WEIGHTS["saelens"])
    return folder


def require_refused(folder: Path, told: str) -> None:
    with pytest.raises(UserError, match=told) as error:
        load_coder(folder)
    assert str(error.value).isprintable() and "expected" in str(error.value)


# SAELens before 6; `make test-interop` has SAELens itself beside such files


@pytest.mark.parametrize(
    "settings",
    [
        {**OLD, "architecture": "standard", **TOPK},
        {**OLD, "architecture": "topk", **TOPK},
        {**OLD, **TOPK, "sae_lens_version": "2.1.3", "hook_point_layer": 3, "lr": 4e-4},
        {**OLD, "activation_fn": "topk", "activation_fn_kwargs": {"k": K, "signed": False}},
        {**OLD, "architecture": "topk", "activation_fn_kwargs": {"k": K}, "k": 7},
    ],
)
def test_a_topk_by_its_activation_is_a_topk(settings: dict, tmp_path: Path) -> None:
    tensors = weights()
    coder = load_coder(put(tmp_path, settings, tensors))
    z_BF = (x_BD() - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]
    kept = z_BF.topk(K, dim=1)
    expected_BF = torch.zeros_like(z_BF).scatter(1, kept.indices, kept.values)
    torch.testing.assert_close(coder.encode(x_BD()), expected_BF, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("applies", [True, False])
def test_scaling_factors_of_one_are_dropped_and_b_dec_is_applied_as_told(
    applies: bool, tmp_path: Path
) -> None:
    tensors = weights()
    settings = {**OLD, "normalize_activations": False, "apply_b_dec_to_input": applies}
    coder = load_coder(put(tmp_path, settings, {**tensors, "scaling_factor": torch.ones(F)}))
    centred_BD = x_BD() - tensors["b_dec"] if applies else x_BD()
    expected_BF = relu(centred_BD @ tensors["W_enc"] + tensors["b_enc"])
    torch.testing.assert_close(coder.encode(x_BD()), expected_BF, rtol=1e-4, atol=1e-4)


def test_latents_without_a_decoder_row_never_fire_where_its_norm_scales_them(
    tmp_path: Path,
) -> None:
    tensors = weights()
    tensors["W_dec"][:3] = 0
    coder = load_coder(put(tmp_path, {**NEW, "rescale_acts_by_decoder_norm": True}, tensors))
    acts_BF = coder.encode(x_BD())
    assert (acts_BF[:, :3] == 0).all() and (acts_BF != 0).sum(1).eq(K).all()
    assert coder(x_BD()).isfinite().all()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({**OLD, "hook_head_index": 3}, "found hook_head_index=3 in .*; expected null"),
        ({**OLD, "hook_point_head_index": 3}, "found hook_head_index=3"),
        ({**NEW, "metadata": {**NEW["metadata"], "hook_head_index": 3}}, r"metadata\.hook_head_i"),
        ({**OLD, "activation_fn": "tanh-relu"}, 'activation_fn="tanh-relu".*"relu" or "topk"'),
        ({**OLD, "activation_fn_str": "topk"}, "activation_fn=topk, k=None"),
        ({**OLD, **TOPK, "architecture": "jumprelu"}, "activation_fn=topk, k=5, of a jumprelu"),
        (
            {**OLD, "activation_fn": "topk", "activation_fn_kwargs": {"k": K, "signed": True}},
            r"activation_fn_kwargs\.signed=true",
        ),
        ({**NEW, "activation_fn_str": "topk"}, "activation_fn_str=.*not known"),
        (
            {**OLD, "architecture": "temporal"},
            'found architecture="temporal" in .*; expected "jumpr',
        ),
        ({**OLD, "normalize_activations": True}, "normalize_activations=true"),
        ({**NEW, "normalize_activations": "layer_norm"}, 'normalize_activations="layer_norm"'),
        (
            {**NEW, "normalize_activations": "expected_average_only_in"},
            "normalize_activations=.expected_average_only_in",
        ),
        ({**NEW, "reshape_activations": "heads"}, 'reshape_activations="heads"'),
        ({**NEW, "use_error_term": True}, "use_error_term=true"),
        ({**NEW, "dtype": "int8"}, 'dtype="int8"'),
        ({**NEW, "k": 5.0}, "k=5.0 in .*; expected a whole number"),
        ({**NEW, "k": F + 1}, f"k={F + 1}; expected 1 to coder.num_latents={F}"),
        ({**OLD, "architecture": "topk"}, "a topk without k"),
        ({**NEW, "d_sae": 65}, f"{D} → {F} → {D}, where its settings say 65"),
        ({**NEW, "new_in_7": 1}, "found new_in_7=1 in .*not known"),
        ({**NEW, "a\n\ud800": "b\n\x1b"}, r"a\\\\n\\\\ud800="),
        ({**NEW, "architecture": "transcoder"}, "transcoder whose apply_b_dec_to_input is not f"),
    ],
)
def test_settings_of_saelens_without_a_meaning_here_are_refused(
    settings: dict, told: str, tmp_path: Path
) -> None:
    require_refused(put(tmp_path, settings, weights()), told.replace("\\\\\\\\", "\\\\"))


def test_what_saelens_itself_notes_of_a_training_changes_nothing(tmp_path: Path) -> None:
    """As `LanguageModelSAETrainingRunner` of 6.54 writes it."""
    details = {"decoder_init_norm": 0.1, "use_sparse_activations": True}
    notes = {"training_architecture": "topk", "training_architecture_details": details}
    notes |= {"l0": 5.0, "num_dead_features": 2, "seqpos_slice": [None], "prepend_bos": True}
    told = load_coder(put(tmp_path / "told", {**NEW, "metadata": notes}, weights()))
    plain = load_coder(put(tmp_path / "plain", NEW, weights()))
    assert told.config == plain.config and torch.equal(told(x_BD()), plain(x_BD()))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"scaling_factor": torch.full((F,), 2.0)}, r"scaling_factor \[64\] instead of absent"),
        ({"threshold": torch.ones(F)}, r"threshold \[64\] instead of absent"),
        ({"b_mag": torch.ones(F)}, "b_mag"),
        ({"b_enc": None}, r"b_enc absent instead of \[64\]"),
        ({"W_dec": None}, "tensors W_enc"),
        ({"b_dec": torch.ones(D + 1)}, r"b_dec \[17\] instead of \[16\]"),
        ({"W_dec": torch.ones(F, D + 1)}, "an autoencoder of 16 → 64 → 17"),
        ({"W_enc": torch.ones(D * F)}, r"W_enc \[1024\]"),
        ({"W_enc": torch.ones(D, F, dtype=torch.int64)}, "W_enc of torch.int64"),
        ({"b_enc": torch.full((F,), torch.nan)}, "b_enc is not finite"),
        ({"W_dec": torch.full((F, D), 1e300, dtype=torch.float64)}, "W_dec is not finite"),
    ],
)
def test_tensors_without_a_meaning_here_are_refused(
    change: dict, told: str, tmp_path: Path
) -> None:
    tensors = {name: t for name, t in {**weights(), **change}.items() if t is not None}
    require_refused(put(tmp_path, OLD, tensors), told)


# sparsify and dictionary_learning


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"activation": "groupmax"}, 'found activation="groupmax" in .*; expected "topk"'),
        ({"signed": True}, "signed=true in .*; expected false"),
        ({"skip_connection": True}, r"W_skip absent instead of \[6, 6\]"),
        ({"num_latents": 0, "expansion_factor": 3}, "where its settings say 18"),
        ({"d_in": 17}, "where its settings say 17"),
        ({"k": 99}, "k=99; expected 1 to coder.num_latents=24"),
        ({"k": True}, "k=true"),
        ({"hookpoint": "layers.3"}, "hookpoint=.*not known"),
    ],
)
def test_settings_of_sparsify_without_a_meaning_here_are_refused(
    change: dict, told: str, tmp_path: Path
) -> None:
    coder, _ = folded("topk", Form.autoencoder)
    format_named("sparsify").write(tmp_path / "c", coder, ABOUT)
    path = tmp_path / "c/cfg.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    require_refused(tmp_path / "c", told)


def linear(bias: str) -> dict[str, Tensor]:
    """dictionary_learning's tensors, with b_dec under this name."""
    ours = weights()
    return {
        "encoder.weight": ours["W_enc"].T.contiguous(),
        "encoder.bias": ours["b_enc"],
        "decoder.weight": ours["W_dec"].T.contiguous(),
        bias: ours["b_dec"],
    }


def put_pickle(folder: Path, tensors: dict[str, Any], **trainer: Any) -> Path:
    """A folder of dictionary_learning; without a trainer no settings."""
    folder.mkdir(exist_ok=True)
    torch.save(tensors, folder / "ae.pt")
    if trainer:
        (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))
    return folder


@pytest.mark.parametrize(("bias", "is_centred"), [("bias", True), ("decoder.bias", False)])
def test_a_relu_is_read_without_settings(bias: str, is_centred: bool, tmp_path: Path) -> None:
    tensors = linear(bias)
    coder = load_coder(put_pickle(tmp_path, tensors))
    centred_BD = x_BD() - tensors[bias] if is_centred else x_BD()
    acts_BF = relu(centred_BD @ tensors["encoder.weight"].T + tensors["encoder.bias"])
    expected_BD = acts_BF @ tensors["decoder.weight"].T + tensors[bias]
    torch.testing.assert_close(coder(x_BD()), expected_BD, rtol=1e-4, atol=1e-4)
    norms_F = tensors["decoder.weight"].norm(dim=0)
    torch.testing.assert_close(coder.encode(x_BD()), acts_BF * norms_F, rtol=1e-4, atol=1e-4)


def test_an_old_topk_has_its_k_from_the_settings(tmp_path: Path) -> None:
    folder = put_pickle(tmp_path, linear("b_dec"), dict_class="AutoEncoderTopK", k=K)
    assert (load_coder(folder).encode(x_BD()) > 0).sum(1).eq(K).all()


@pytest.mark.parametrize(
    ("more", "trainer", "told"),
    [
        ({"k": torch.tensor(K), "threshold": torch.tensor(0.5)}, {}, "TopK or BatchTopKSAE: only"),
        ({"b_gate": torch.ones(F)}, {}, "tensors of none that is known"),
        ({}, {"dict_class": "IdentityDict"}, 'trainer.dict_class="IdentityDict".*"AutoE'),
        ({}, {"dict_class": "AutoEncoderTopK"}, "k = nothing"),
        ({}, {"dict_class": "JumpReluAutoEncoder"}, "which are not of a JumpReluAutoEncoder"),
        ({"k": torch.tensor(3)}, {"dict_class": "AutoEncoderTopK", "k": K}, "k = (3|5) and"),
        ({"k": torch.ones(3)}, {"dict_class": "AutoEncoderTopK"}, "ae.pt unusable"),
        ({}, {"dict_class": "AutoEncoderTopK", "k": K, "dict_size": 65}, "settings say 65"),
        ({}, {"dict_class": "AutoEncoderTopK", "k": K, "softmax": True}, "trainer.softmax=true"),
        (
            {"k": torch.tensor(K), "threshold": torch.tensor(-1.0)},
            {"dict_class": "BatchTopKSAE"},
            "threshold -1: it was never set",
        ),
    ],
)
def test_what_dictionary_learning_does_not_say_is_not_guessed(
    more: dict, trainer: dict, told: str, tmp_path: Path
) -> None:
    require_refused(put_pickle(tmp_path, {**linear("b_dec"), **more}, **trainer), told)


def test_settings_of_another_shape_are_refused(tmp_path: Path) -> None:
    put_pickle(tmp_path, linear("b_dec"))
    (tmp_path / "config.json").write_text('{"trainer": []}')
    require_refused(tmp_path, r"found trainer=\[\] in .*; expected settings")
    (tmp_path / "config.json").write_text("[]")
    require_refused(tmp_path, "config.json unusable .TypeError")


# Ours, and folders


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"config": {"kind": "topk", "num_latents": 24, "k": 3, "new": 1}}, "new=1, which no"),
        ({"config": {"kind": "topk", "num_latents": 24, "k": 3.0}}, "k=3.0, which no topk"),
        ({"about": {"site": 3}}, "site=3"),
        ({"about": {**ABOUT, "source": {"lm": "gpt2"}}}, "source.lm='gpt2'"),
        ({"pre_bias": "no"}, "pre_bias='no'"),
    ],
)
def test_a_description_of_ours_with_more_than_is_known_is_refused(
    change: dict, told: str, tmp_path: Path
) -> None:
    coder, _ = folded("topk", Form.autoencoder)
    save_coder(tmp_path, coder, coder.state_dict(), ABOUT)
    path = tmp_path / "coder.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    require_refused(tmp_path, told)


def test_weights_of_ours_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    coder, _ = folded("topk", Form.autoencoder)
    save_coder(tmp_path, coder, coder.state_dict(), ABOUT)
    tensors = load_file(tmp_path / "coder.safetensors")
    tensors["b_enc"][3] = torch.inf
    save_file(tensors, tmp_path / "coder.safetensors")
    require_refused(tmp_path, "b_enc is not finite")


def test_a_folder_with_coders_of_two_libraries_is_refused(tmp_path: Path) -> None:
    put(tmp_path, OLD, weights())
    save_file(weights(), tmp_path / WEIGHTS["sparsify"])
    require_refused(tmp_path, "found coders for saelens and sparsify in .*; expected one")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (put(tmp_path, OLD, weights()) / "cfg.json").unlink()
    require_refused(tmp_path, re.escape(f"{tmp_path / 'cfg.json'} unusable (FileNotFoundError"))
