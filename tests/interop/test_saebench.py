"""Our coders in SAEBench's hands; SAEBench itself runs in an environment of its own.

`make test-interop` makes that environment and names its Python in SAE_DIST_SAEBENCH.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_dist.coders import Form, save_coder
from sae_dist.common.errors import UserError
from sae_dist.interop.saebench import SAEBenchCoder, load_for_saebench
from tests.coders.test_coder import EVERY
from tests.interop.saebench_measure import TOPK, TRANSCODER, Found, measure, python, relative
from tests.interop.saebench_tables import DOCS, OTHER, SAME, between, tables
from tests.interop.test_formats import ABOUT, folded

HOOK = "blocks.3.hook_resid_post"
MOST = 1e-4  # of a relative difference: one entry in 30,000 that fires in one alone is 3e-5
with_saebench = pytest.mark.skipif(python() is None, reason="no SAEBench: run `make test-interop`")


@pytest.mark.parametrize(("kind", "form"), EVERY)
def test_it_encodes_and_decodes_whatever_comes_before_the_width(kind: str, form: Form) -> None:
    coder, x_BD = folded(kind, form)
    wrapped = SAEBenchCoder(coder, "some/lm", HOOK)
    assert wrapped.W_enc.shape == (wrapped.cfg.d_in, wrapped.cfg.d_sae)
    assert wrapped.W_dec.shape[0] == wrapped.cfg.d_sae == len(wrapped.b_enc)
    x_2bD = torch.stack([x_BD, 2 * x_BD])
    acts = wrapped.encode(x_2bD.double())
    assert acts.dtype == torch.float32 and torch.equal(acts[1], coder.encode(2 * x_BD))
    if form is Form.autoencoder:
        assert wrapped.W_dec.shape[1] == len(wrapped.b_dec) == wrapped.cfg.d_in
        torch.testing.assert_close(wrapped(x_2bD)[0], coder(x_BD))
    else:
        with pytest.raises(UserError, match="a .*transcoder; SAEBench reconstructs what"):
            wrapped(x_2bD)


def test_settings_are_json_and_follow_the_weights() -> None:
    coder, _ = folded("jumprelu", Form.skip_transcoder)
    wrapped = SAEBenchCoder(coder, "some/lm", HOOK)
    assert wrapped.to(device="cpu", dtype=torch.bfloat16) is wrapped
    told = json.loads(json.dumps(wrapped.cfg.to_dict()))
    assert told["dtype"] == "bfloat16" and wrapped.dtype is torch.bfloat16
    assert told["architecture"] == "jumprelu_skip_transcoder"
    assert (told["hook_name"], told["hook_layer"], told["device"]) == (HOOK, 3, "cpu")


def saved(folder: Path, site: str, lm: dict[str, Any] | None) -> Path:
    coder, _ = folded("topk", Form.autoencoder)
    about = {**ABOUT, "site": site, "source": {"lm": lm}}
    save_coder(folder, coder, coder.state_dict(), about)
    return folder


@pytest.mark.parametrize(
    ("site", "hook", "layer"),
    [
        ("resid_post.3", HOOK, 3),
        ("attn_z.0", "blocks.0.attn.hook_z", 0),
        ("mlp_in.2", "blocks.2.ln2.hook_normalized", 2),
        ("embed", "hook_embed", 0),
    ],
)
def test_what_a_coder_reads_is_told_by_its_folder(
    site: str, hook: str, layer: int, tmp_path: Path
) -> None:
    folder = saved(tmp_path / "c", site, {"name": "some/lm", "fold_norms": True})
    found = load_for_saebench(folder).cfg
    assert (found.model_name, found.hook_name, found.hook_layer) == ("some/lm", hook, layer)
    other = load_for_saebench(folder, model_name="lm", hook="blocks.7.hook_mlp_out").cfg
    assert (other.model_name, other.hook_name, other.hook_layer) == (
        "lm",
        "blocks.7.hook_mlp_out",
        7,
    )


@pytest.mark.parametrize(
    ("site", "lm", "told"),
    [
        ("resid_post.3", None, "does not say which language model it reads; give model_name="),
        ("model.layers.3.mlp.output", {"name": "a"}, "has no name in TransformerLens"),
        ("mlp_in.3", {"name": "a"}, "behind the norm's gain, .* lm.fold_norms=true"),
    ],
)
def test_what_saebench_could_not_find_is_refused(
    site: str, lm: dict[str, Any] | None, told: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=told):
        load_for_saebench(saved(tmp_path / "c", site, lm))


def test_saebench_need_not_be_installed() -> None:
    code = "import sys, sae_dist.interop.saebench; print([m for m in sys.modules if 'sae_' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "sae_dist.interop.saebench" in done.stdout
    assert "sae_bench" not in done.stdout and "sae_lens" not in done.stdout


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return measure(tmp_path_factory.mktemp("saebench"))


@pytest.mark.slow
@with_saebench
def test_saebench_takes_every_kind_and_every_hook(found: Found) -> None:
    assert set(found.theirs) == set(found.ours) - {TRANSCODER} and len(found.theirs) == 4
    assert set(found.probing) > {TOPK, TRANSCODER} and set(found.meta) == {TOPK, TRANSCODER}
    assert all(0.4 < side["sae"]["sae_test_accuracy"] <= 1 for side in found.probing.values())


@pytest.mark.slow
@with_saebench
def test_figures_of_the_same_formula_are_the_same(found: Found) -> None:
    for name, theirs in found.theirs.items():
        far = {key: relative(theirs[key], found.ours[name][key]) for key in SAME}
        assert max(far.values()) < MOST, (name, far)
    assert relative(*found.meta_of_ours) < MOST


@pytest.mark.slow
@with_saebench
def test_the_others_are_what_we_say_they_are(found: Found) -> None:
    for name, theirs in found.theirs.items():
        far = {key: relative(theirs[key], found.formulas[name][key]) for key in OTHER}
        assert max(far.values()) < MOST, (name, far)
    for key in ("explained_variance", "ce_loss_with_ablation", "kl_div_with_sae"):
        assert relative(found.theirs[TOPK][key], found.ours[TOPK][key]) > MOST
    assert relative(found.rescaled, found.theirs[TOPK]["explained_variance"]) > 100 * MOST


@pytest.mark.slow
@with_saebench
def test_saelens_objects_of_the_same_coders_get_the_same_figures(found: Found) -> None:
    assert len(found.saelens) == 3
    for name, theirs in found.saelens.items():
        far = {key: relative(theirs[key], found.theirs[name][key]) for key in {**SAME, **OTHER}}
        assert max(far.values()) < MOST, (name, far)
    _, *others = sorted(found.saelens)  # the first is probed with other random numbers
    assert [found.probing[f"saelens-{n}"] for n in others] == [found.probing[n] for n in others]


@pytest.mark.slow
@with_saebench
def test_the_docs_have_the_same_rows(found: Found) -> None:
    _, written, _ = between(DOCS.read_text(), "measured")
    rows = [
        [row.split("|")[1] for row in text.splitlines() if row.startswith("|")]
        for text in (written, tables(found))
    ]
    assert rows[0] == rows[1]
