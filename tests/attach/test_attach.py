"""Coders attached to tiny language models, beside the same by hand."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import sae_dist
from sae_dist.attach import Attached
from sae_dist.coders import Coder, Form, save_coder
from sae_dist.common.errors import UserError
from sae_dist.evaluate.lm_batch import LMBatch, replacement_by
from sae_dist.interop import format_named
from sae_dist.lm import LM, Capture, LMConfig, resolve, splice
from tests.coders.kinds import FORMS, config_of_kind
from tests.harvest.tiny import tokenizer
from tests.lm.tiny import WIDTH, tiny_model

KINDS = ("abstopk", "batchtopk", "jumprelu", "topk")
TEXT = "the a saw one c of the b"
RESID, MLP = "resid_post.1", "mlp_in.2 → mlp_out.2"
NOWHERE = torch.zeros(1, 1, dtype=torch.bool)


def a_coder(kind: str = "topk", form: Form = Form.autoencoder, width: int = WIDTH) -> Coder:
    coder = Coder(config_of_kind(kind, form=form, num_latents=24, k=4), width, width)
    torch.manual_seed(0)
    for tensor in (*coder.parameters(), *coder.buffers()):
        nn.init.uniform_(tensor, -0.3, 0.3)
    for name in coder.config.tensors():
        coder.state_dict()[name].fill_(0.4)
    return coder.eval().requires_grad_(False)


def a_language_model(family: str = "llama", dtype: torch.dtype = torch.float32) -> LM:
    return LM(tiny_model(family).to(dtype), tokenizer(), LMConfig(name="tiny"), "none")


def both() -> dict[str, Coder]:
    return {RESID: a_coder(), MLP: a_coder("jumprelu", Form.skip_transcoder)}


def hooks(model: PreTrainedModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["gemma2", "gpt2", "llama"])
def test_attaching_alone_changes_no_bit(family: str, dtype: torch.dtype) -> None:
    lm = a_language_model(family, dtype)
    with sae_dist.attach(lm, both()) as run:
        found = run(TEXT)
        tied = run(TEXT, grad=True)
    clean_NSV = lm.model(found.input_ids).logits
    assert torch.equal(found.logits, clean_NSV)
    assert torch.equal(tied.logits, clean_NSV)
    assert found.tokens[0][:3] == ["<s>", "the", "a"]
    assert found.is_read.tolist() == [[False] + [True] * (len(found.tokens[0]) - 1)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_latents_and_what_is_made_of_them(kind: str, form: Form) -> None:
    lm, coder = a_language_model(), a_coder(kind, form)
    name, read, write = (RESID,) * 3 if form is Form.autoencoder else (MLP, *MLP.split(" → "))
    with sae_dist.attach(lm, {name: coder}) as run:
        found, spliced = run(TEXT), run(TEXT, splice=True)
    sites = {site: resolve(lm.model, site) for site in {read, write}}
    acts = Capture(lm.model, list(sites.values()))(found.input_ids)
    expected_SF = coder.encode(acts[read][0, 1:])
    latents = found.latents[name]
    dense_NSF = latents.dense()
    torch.testing.assert_close(dense_NSF[0, 1:], expected_SF)
    assert 0 < dense_NSF[0, 1:].count_nonzero() == len(latents.values_A) < dense_NSF.numel() / 2
    assert not dense_NSF[0, 0].any()  # BOS
    strongest, values = latents.at(-1)
    assert torch.equal(values, values.sort(descending=True).values)
    assert torch.equal(dense_NSF[0, -1, strongest], values)
    assert torch.equal(latents.of(int(strongest[0])), dense_NSF[..., strongest[0]])
    torch.testing.assert_close(latents.totals(), dense_NSF.sum((0, 1)))

    own_NSE = found.reconstruction[name]
    torch.testing.assert_close(own_NSE[0, 1:], coder(acts[read][0, 1:]))
    assert torch.equal(own_NSE[0, 0], acts[write][0, 0])
    torch.testing.assert_close(own_NSE + found.error[name], acts[write])
    keep_NS = ~found.is_read
    with splice(lm.model, sites[read], sites[write], replacement_by(coder), keep_NS):
        as_evaluated_NSV = lm.model(found.input_ids).logits
    torch.testing.assert_close(spliced.logits, as_evaluated_NSV)


def test_what_splicing_costs_is_what_evaluation_says() -> None:
    lm, coder = a_language_model(), a_coder()
    with sae_dist.attach(lm, {RESID: coder}) as run:
        found = run(TEXT, splice=True)
    batch = LMBatch(lm, found.input_ids, found.is_read)
    told_S = batch.spliced(RESID, RESID, replacement_by(coder)).loss_S
    loss_S = nn.functional.cross_entropy(
        found.logits[0, :-1], found.input_ids[0, 1:], reduction="none"
    )
    torch.testing.assert_close(told_S, loss_S.double())


def by_hand(lm: LM, ids_NS: Tensor, change: Any) -> Tensor:
    """The logits where all but BOS of the residual stream is changed."""
    site = resolve(lm.model, RESID)

    def replacement(x_NSD: Tensor, y_NSE: Tensor) -> Tensor:
        return torch.cat([y_NSE[:, :1], change(y_NSE[:, 1:])], 1)

    with splice(lm.model, site, site, replacement, NOWHERE):
        return lm.model(ids_NS).logits


def test_steering_adds_the_latents_direction() -> None:
    lm, coder = a_language_model(), a_coder()
    with sae_dist.attach(lm, {RESID: coder}) as run:
        steer = run.steer(RESID, 3, add=2.5)
        found = run(TEXT, steer)
        with steer:
            assert torch.equal(run(TEXT).logits, found.logits)
        clean = run(TEXT)
    direction_E = coder.W_dec[3]
    expected_NSV = by_hand(lm, found.input_ids, lambda y: y + 2.5 * direction_E)
    torch.testing.assert_close(found.logits, expected_NSV)
    assert not torch.allclose(clean.logits, found.logits, atol=1e-3)
    assert torch.equal(found.latents[RESID].dense(), clean.latents[RESID].dense())


def test_ablation_takes_away_what_the_latents_write() -> None:
    lm, coder = a_language_model(), a_coder()
    with sae_dist.attach(lm, {RESID: coder}) as run:
        silent = run(TEXT).latents[RESID].totals().topk(2).indices.tolist()
        found = run(TEXT, run.ablate(RESID, silent))

    def without(y_NSE: Tensor) -> Tensor:
        return y_NSE - coder.encode(y_NSE[0])[None, :, silent] @ coder.W_dec[silent]

    torch.testing.assert_close(found.logits, by_hand(lm, found.input_ids, without))


def test_edits_are_made_in_order_where_they_are_wanted() -> None:
    lm, coder = a_language_model(), a_coder()
    with sae_dist.attach(lm, {RESID: coder}) as run:
        clean = run(TEXT)
        with run.steer(RESID, [3, 5], set=4.0, positions=slice(2, 4)):
            found = run(TEXT, run.steer(RESID, 3, add=1.0, positions=[3, -1]))
        over = run(TEXT, run.steer(RESID, 3, add=1.0), run.steer(RESID, 3, set=0.5))
        alone = run(TEXT, run.steer(RESID, 3, set=0.5))
    own_NSF = clean.latents[RESID].dense()
    wanted_NSF = own_NSF.clone()
    wanted_NSF[:, 2:4, [3, 5]] = 4.0
    wanted_NSF[:, [3, -1], 3] += 1.0
    change_NSE = ((wanted_NSF - own_NSF) @ coder.W_dec)[:, 1:]
    expected_NSV = by_hand(lm, found.input_ids, lambda y: y + change_NSE)
    torch.testing.assert_close(found.logits, expected_NSV)
    assert torch.equal(found.logits[:, :2], clean.logits[:, :2])
    torch.testing.assert_close(over.logits, alone.logits)


def test_a_transcoders_latents_are_steered_where_it_writes_and_spliced_ones_too() -> None:
    lm, coder = a_language_model(), a_coder("jumprelu", Form.skip_transcoder)
    read, write = (resolve(lm.model, site) for site in MLP.split(" → "))
    with sae_dist.attach(lm, {MLP: coder}) as run:
        found = run(TEXT, run.steer(MLP, 7, set=2.0), splice=True)

    def replacement(x_NSD: Tensor, y_NSE: Tensor) -> Tensor:
        acts_NSF = coder.encode(x_NSD)
        acts_NSF[..., 7] = 2.0
        return coder.reconstruct(acts_NSF, x_NSD)

    with splice(lm.model, read, write, replacement, ~found.is_read):
        torch.testing.assert_close(found.logits, lm.model(found.input_ids).logits)


def test_special_tokens_are_read_where_that_is_asked_for() -> None:
    lm, coder = a_language_model(), a_coder()
    with sae_dist.attach(lm, {RESID: coder}, special_tokens=True) as run:
        found = run(TEXT, splice=True)
    site = resolve(lm.model, RESID)
    with splice(lm.model, site, site, replacement_by(coder), NOWHERE):
        torch.testing.assert_close(found.logits, lm.model(found.input_ids).logits)
    assert found.latents[RESID].dense()[0, 0].any()


@pytest.mark.parametrize("is_spliced", [False, True])
def test_latents_have_the_gradients_of_whatever_is_asked_of_the_logits(is_spliced: bool) -> None:
    """Of the first coder's, through all that comes after it; the second one's, too."""
    lm, coders = a_language_model(), both()
    with sae_dist.attach(lm, coders) as run:
        found = run(TEXT, splice=is_spliced, grad=True)
    found.logits[0, -1, 3].backward()
    ids_NS, first = found.input_ids, found.latents[RESID]
    places = {name: [resolve(lm.model, one) for one in name.split(" → ")] for name in coders}
    acts_NSF = first.dense().detach().requires_grad_()

    def reconstruct(x_NSD: Tensor, y_NSE: Tensor) -> Tensor:
        given_NSE = coders[RESID].decode(acts_NSF)
        return given_NSE if is_spliced else y_NSE + given_NSE - given_NSE.detach()

    def transcode(x_NSD: Tensor, y_NSE: Tensor) -> Tensor:
        return coders[MLP](x_NSD) if is_spliced else y_NSE

    keep_NS = ~found.is_read
    with (
        splice(lm.model, places[RESID][0], places[RESID][-1], reconstruct, keep_NS),
        splice(lm.model, *places[MLP], transcode, keep_NS),
    ):
        lm.model(ids_NS).logits[0, -1, 3].backward()
    assert acts_NSF.grad is not None and first.values_A.grad is not None
    place = first.sequences_A, first.positions_A, first.latents_A
    torch.testing.assert_close(first.values_A.grad, acts_NSF.grad[place])
    assert first.values_A.grad.abs().max() > 0.01
    last_A = found.latents[MLP].values_A
    assert last_A.grad is not None and last_A.grad.abs().max() > 0.01


def test_texts_of_several_lengths_are_as_each_alone() -> None:
    lm = a_language_model()
    with sae_dist.attach(lm, both()) as run:
        found = run([TEXT, "the a"], splice=True)
        alone = run("the a", splice=True)
        again = run(alone.input_ids, splice=True)
        begun = run([0, *alone.input_ids[0, 1:].tolist()], splice=True)
    length = alone.input_ids.shape[1]
    torch.testing.assert_close(found.logits[1:, :length], alone.logits)
    assert found.is_read[1].sum() == alone.is_read.sum() == length - 1
    assert torch.equal(again.logits, alone.logits) and torch.equal(begun.logits, alone.logits)
    short = found.latents[RESID].dense()[1]
    assert not short[length:].any()
    torch.testing.assert_close(short[:length], alone.latents[RESID].dense()[0])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_generation_is_steered_token_by_token(family: str) -> None:
    lm = a_language_model(family)
    with sae_dist.attach(lm, both()) as run:
        edits = run.steer(RESID, 3, add=5.0), run.ablate(MLP, [1, 2], positions=slice(6, None))
        written = run.generate("the a", *edits, max_new_tokens=6, splice=True)
        ids = run("the a").input_ids[0].tolist()
        for _ in range(6):
            short = len(ids) <= 6  # there are no such positions yet
            asked = edits[:1] if short else edits
            ids.append(int(run(ids, *asked, splice=True).logits[0, -1].argmax()))
        plain = run.generate("the a", max_new_tokens=6)
    assert written == lm.tokenizer.decode(ids, skip_special_tokens=True)
    assert written != plain and plain.startswith("the a")
    assert hooks(lm.model) == 0


def test_a_text_of_special_tokens_alone_has_no_latents() -> None:
    lm = a_language_model()
    with sae_dist.attach(lm, both()) as run:
        found = run("", run.steer(RESID, 1, add=3.0), splice=True)
    assert found.input_ids.tolist() == [[0]]
    assert torch.equal(found.logits, lm.model(found.input_ids).logits)
    assert found.latents[RESID].dense().shape == (1, 1, 24)


def test_no_hook_is_left_after_an_error_or_the_block() -> None:
    lm = a_language_model()
    narrow = {MLP: both()[MLP], RESID: a_coder(width=16)}
    said = "width 32 at resid_post.1; expected 16, which the coder"
    with pytest.raises(UserError, match=said), sae_dist.attach(lm, narrow) as run:
        run(TEXT)
    assert hooks(lm.model) == 0
    with sae_dist.attach(lm, both()) as run:
        with pytest.raises(ZeroDivisionError), run.steer(RESID, 3, add=9.0):
            raise ZeroDivisionError
        assert torch.equal(run(TEXT).logits, lm.model(run(TEXT).input_ids).logits)
    assert hooks(lm.model) == 0
    with pytest.raises(UserError, match="found no coder attached; expected a call inside"):
        run(TEXT)


def saved(folder: Path, form: Form, about: dict[str, Any], to: str = "sae_dist") -> Path:
    coder = a_coder("jumprelu", form)
    if to == "sae_dist":
        save_coder(folder, coder, coder.state_dict(), about)
    else:
        format_named(to).write(folder, coder, about)
    return folder


@pytest.mark.parametrize("to", ["sae_dist", "saelens"])
def test_a_coders_files_say_where_it_belongs(to: str, tmp_path: Path) -> None:
    source = {"source": {"lm": asdict(LMConfig(name="tiny", fold_norms=True))}}
    about = {"site": "mlp_in.2", "target": "mlp_out.2", **source}
    plain = saved(tmp_path / "a", Form.autoencoder, {"site": RESID, "target": RESID}, to)
    trans = saved(tmp_path / "b", Form.transcoder, about, to)
    lm = a_language_model()
    lm.config.fold_norms = True
    with sae_dist.attach(lm, [str(plain), trans]) as run:
        by_themselves = run(TEXT, splice=True)
    assert set(by_themselves.latents) == {RESID, MLP}
    named = {RESID: plain, "mlp_in.2": trans}
    with sae_dist.attach(lm.model, named, tokenizer=lm.tokenizer) as run:
        assert torch.equal(run(TEXT, splice=True).logits, by_themselves.logits)
    lm.config.fold_norms = False
    if to == "sae_dist":
        with (
            pytest.raises(UserError, match="trained with lm.fold_norms=true, and a language"),
            sae_dist.attach(lm, [trans]),
        ):
            pass


def test_a_language_model_is_loaded_where_it_lies(tmp_path: Path) -> None:
    lm = a_language_model()
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    for there in (tmp_path, LMConfig(name=str(tmp_path))):
        with sae_dist.attach(there, both()) as run:
            found = run(TEXT)
        assert torch.equal(found.logits, lm.model(found.input_ids).logits)


@pytest.mark.parametrize(
    ("coders", "said"),
    [
        (
            {"mlp_in.2": a_coder(form=Form.transcoder)},
            "found transcoder at mlp_in.2; expected what it",
        ),
        ({"mlp_in.2 → a → b": a_coder()}, "found autoencoder at mlp_in.2 → a → b"),
        ({"resid_post.9": a_coder()}, "expected a layer from 0 to 2"),
        ({RESID: "nowhere"}, "no coder in nowhere"),
    ],
)
def test_what_cannot_be_attached_is_refused(coders: Any, said: str) -> None:
    with pytest.raises(UserError, match=said), sae_dist.attach(a_language_model(), coders):
        pass


def test_a_slice_a_bare_model_and_two_of_one_site_are_refused(tmp_path: Path) -> None:
    lm, about = a_language_model(), {"site": RESID, "target": RESID}
    folder = saved(tmp_path / "coder", Form.autoencoder, about)
    half = sae_dist.load_coder(folder, part=0, parts=2)
    for coders, said in (
        ({RESID: half}, "found 12 of a coder's 24 latents"),
        ([folder, folder], "found two coders at resid_post.1"),
    ):
        with pytest.raises(UserError, match=said), sae_dist.attach(lm, coders):
            pass
    with pytest.raises(UserError, match="without a tokenizer"):
        sae_dist.attach(lm.model, {RESID: folder}).__enter__()


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda run: run.steer("resid_post.2", 1, add=1.0), "expected one of resid_post.1"),
        (lambda run: run.steer(RESID, 24, add=1.0), "found latent 24 of .*; expected 0 to 23"),
        (lambda run: run.steer(RESID, 2), "found add=None, set=None; expected one of them"),
        (lambda run: run(TEXT, run.ablate(RESID, 2, positions=99)), "positions=99 for 9 tokens"),
        (lambda run: run([[]]), "found no token in a text"),
        (lambda run: run.generate([TEXT, TEXT]), "found 2 texts; expected one"),
    ],
)
def test_what_cannot_be_asked_is_refused(ask: Any, said: str) -> None:
    with sae_dist.attach(a_language_model(), {RESID: a_coder()}) as run:
        assert isinstance(run, Attached)
        with pytest.raises(UserError, match=said) as caught:
            ask(run)
    assert "\n" not in str(caught.value)
