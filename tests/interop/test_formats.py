"""Every format, written and read here; what the libraries themselves say is in test_clients.py."""

import itertools
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from sae_dist.apps.export import require_holds
from sae_dist.coders import Coder, Form, fold, load_coder
from sae_dist.common.errors import UserError
from sae_dist.common.hooks import hook_name, site_of
from sae_dist.interop import format_named, format_names, import_foreign, public
from sae_dist.interop import load_coder as load_any
from tests.coders.kinds import FORMS
from tests.coders.test_coder import EVERY, trained

AE, TC, SKIP = FORMS
ABOUT = {"site": "resid_post.3", "target": "resid_post.3"}
WITH_THRESHOLDS = ("jumprelu", "relu", "gated", "batchtopk")
BY_RANK = {("topk", AE), ("hierarchical_topk", AE)}  # `trained` transcoders are not square
HELD = {
    "saelens": {*itertools.product(WITH_THRESHOLDS, FORMS), *BY_RANK},
    "sparsify": BY_RANK,
    "gemma_scope": set(itertools.product(WITH_THRESHOLDS, (AE, TC))),
    "gemma_scope_2": set(itertools.product(WITH_THRESHOLDS, FORMS)),
    "dictionary_learning": {*itertools.product(WITH_THRESHOLDS, (AE,)), *BY_RANK},
    "sae_dist": set(EVERY),
}
WRITTEN = [(name, *case) for name, cases in HELD.items() for case in sorted(cases)]


def folded(kind: str, form: Form) -> tuple[Coder, torch.Tensor]:
    """A generic coder on raw activations, and such activations."""
    coder, x_BD = trained(kind, form)
    return fold(coder, 7.0), 7.0 * x_BD


@pytest.mark.parametrize(("name", "kind", "form"), WRITTEN)
def test_what_is_written_is_read_back(name: str, kind: str, form: Form, tmp_path: Path) -> None:
    coder, x_BD = folded(kind, form)
    format = format_named(name)
    format.write(tmp_path / "coder", coder, {**ABOUT, "target": "mlp_out.3"})
    assert sorted(p.name for p in (tmp_path / "coder").iterdir()) == sorted(format.files)
    found = load_any(tmp_path / "coder")
    assert (found.config.form, found.d_in, found.d_out) == (form, coder.d_in, coder.d_out)
    assert torch.equal(found.encode(x_BD) > 0, coder.encode(x_BD) > 0)
    torch.testing.assert_close(found(x_BD), coder(x_BD), rtol=1e-5, atol=1e-5)
    halves = [load_any(tmp_path / "coder", part=part, parts=2) for part in range(2)]
    joined = torch.cat([half.pre_activations(x_BD) for half in halves], dim=1)
    torch.testing.assert_close(joined, found.pre_activations(x_BD))


@pytest.mark.parametrize(("kind", "form"), EVERY)
def test_what_a_format_cannot_hold_is_refused_with_the_nearest_that_can(
    kind: str, form: Form
) -> None:
    coder, _ = folded(kind, form)
    description = {"config": asdict(coder.config)}
    description |= {"d_in": coder.d_in, "d_out": coder.d_out, "about": ABOUT}
    for name in format_names():
        if (kind, form) in HELD[name]:
            require_holds(format_named(name), "rung", description)
            continue
        with pytest.raises(UserError, match=r"^rung: .*; export it with to=(\w+), or") as error:
            require_holds(format_named(name), "rung", description)
        nearest = str(error.value).partition("to=")[2].partition(",")[0]
        assert (kind, form) in HELD[nearest] and "\n" not in str(error.value)


def test_heads_are_joined_for_autoencoders_alone() -> None:
    coder, _ = folded("jumprelu", TC)
    description = {"config": {"kind": "jumprelu", "form": TC, "num_latents": 24}}
    description |= {"d_in": coder.d_in, "d_out": coder.d_out}
    for about in ({**ABOUT, "site": "attn_z.3"}, {**ABOUT, "target": "attn_z.3"}):
        with pytest.raises(UserError, match="heads of attn_z.*; export it with to=gemma_scope"):
            require_holds(format_named("saelens"), "rung", {**description, "about": about})


def test_gemma_scopes_folders_are_named_by_layer_width_and_l0() -> None:
    widths = {16384: "16k", 65536: "65k", 131072: "131k", 1048576: "1m", 64: "64"}
    scope, of = format_named("gemma_scope"), {"about": ABOUT, "config": {"num_latents": 64}}
    for width, shown in widths.items():
        found = scope.place("rung", {**of, "config": {"num_latents": width}}, 71.6)
        assert found == f"layer_3/width_{shown}/average_l0_72"
    assert format_named("saelens").place("rung", of, None) == "rung"
    with pytest.raises(UserError, match="named by L0, which was not measured"):
        scope.place("rung", of, None)
    with pytest.raises(UserError, match="named by layer, and site embed has none"):
        scope.place("rung", {**of, "about": {"site": "embed"}}, 3.0)


class Bomb:
    """What an attacker pickles."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("harmed",)


def test_nothing_that_a_pickle_asks_for_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    coder, _ = folded("topk", AE)
    format_named("dictionary_learning").write(tmp_path / "dl", coder, ABOUT)
    torch.save({"encoder.weight": Bomb()}, tmp_path / "dl" / "ae.pt")
    with pytest.raises(UserError, match="ae.pt unusable .UnpicklingError"):
        load_any(tmp_path / "dl")
    coder, _ = folded("jumprelu", AE)
    format_named("gemma_scope").write(tmp_path / "gs", coder, ABOUT)
    with np.load(tmp_path / "gs/params.npz") as file:
        arrays = dict(file) | {"threshold": np.array([Bomb()], dtype=object)}
    np.savez(tmp_path / "gs/params.npz", **arrays)
    with pytest.raises(UserError, match="params.npz unusable .*allow_pickle"):
        load_any(tmp_path / "gs")
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("name", [name for name in format_names() if name != "sae_dist"])
@pytest.mark.parametrize("harm", ["cut", "not finite", "empty"])
def test_unusable_files_are_refused_in_one_line(name: str, harm: str, tmp_path: Path) -> None:
    coder, _ = folded("topk" if name == "sparsify" else "jumprelu", AE)
    if harm == "not finite":
        coder.W_dec[3, 2] = torch.nan
    format_named(name).write(tmp_path / "c", coder, ABOUT)
    for file in (tmp_path / "c").iterdir():
        size = {"cut": file.stat().st_size // 2, "empty": 0}.get(harm)
        if size is not None and file.suffix != ".json":
            os.truncate(file, size)
    with pytest.raises(UserError, match=r"^found .* unusable \(.*\); expected a") as error:
        load_any(tmp_path / "c")
    assert "\n" not in str(error.value)


def test_a_folder_of_nobodys_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cfg.json").write_text("{}")
    with pytest.raises(UserError, match="no coder in .*sae_weights.safetensors .SAELens"):
        load_any(tmp_path)


def test_a_published_coder_becomes_one_of_ours(tmp_path: Path) -> None:
    coder, x_BD = folded("jumprelu", AE)
    format_named("saelens").write(tmp_path / "lens", coder, ABOUT)
    description = import_foreign(tmp_path / "lens", tmp_path / "ours", None, None, None)
    assert description["about"]["site"] == description["about"]["target"] == "resid_post.3"
    assert torch.equal(load_coder(tmp_path / "ours")(x_BD), coder(x_BD))
    format_named("gemma_scope").write(tmp_path / "scope", coder, ABOUT)
    with pytest.raises(UserError, match="does not say what it was trained on; give it with site="):
        import_foreign(tmp_path / "scope", tmp_path / "a", None, None, None)
    with pytest.raises(UserError, match="a transcoder needs target="):
        import_foreign(tmp_path / "scope", tmp_path / "a", "mlp_in.3", None, TC)
    import_foreign(tmp_path / "scope", tmp_path / "a", "mlp_in.3", "mlp_out.3", TC)
    assert load_coder(tmp_path / "a").config.form is TC
    with pytest.raises(UserError, match="is a coder of ours already"):
        import_foreign(tmp_path / "a", tmp_path / "b", None, None, None)


def test_sites_have_the_names_of_hooks() -> None:
    sites = ["resid_pre.0", "resid_post.12", "mlp_in.3", "mlp_out.3", "attn_z.1", "embed"]
    assert [site_of(hook_name(site)) for site in sites] == sites
    assert hook_name("resid_post.12") == "blocks.12.hook_resid_post"
    assert hook_name("model.layers.3.mlp") == "model.layers.3.mlp"


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("blocks.3.hook_out", "resid_post.3"),
        ("blocks.3.mlp.hook_in", "mlp_in.3"),
        ("layers.3", "resid_post.3"),
        ("h.3", "resid_post.3"),
        ("model.layers.3", "resid_post.3"),
        ("gpt_neox.layers.3", "resid_post.3"),
        ("resid_post_layer_3", "resid_post.3"),
        ("vision_tower.layers.3", "vision_tower.layers.3"),  # of another stack than the decoder's
        ("model.layers.3.output", "model.layers.3.output"),
    ],
)
def test_names_of_other_libraries_become_sites(theirs: str, ours: str) -> None:
    assert site_of(theirs) == ours


def test_nothing_of_this_machine_is_published(tmp_path: Path) -> None:
    lm, text = {"name": str(tmp_path), "commit": "0"}, {"path": "some/text"}
    about = {**ABOUT, "source": {"store": "/x", "lm": lm, "text": text}}
    expected = {"lm": {**lm, "name": tmp_path.name}, "text": text}
    assert public(about)["source"] == expected
    assert about["source"]["store"] == "/x"
    meta = {**ABOUT, "source": {"store": "coder:/x", "rows": 8, "coder": about}}
    assert public(meta)["source"] == {"rows": 8, "coder": {**ABOUT, "source": expected}}
