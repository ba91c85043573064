"""Crosscoders: several sites side by side, of one store or of two of the same tokens."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from sae_dist.apps.checkpointed import checkpointed
from sae_dist.apps.rungs import lay_out
from sae_dist.coders import Coder, Form, describe_coder, fold, initialise, load_coder, unfold
from sae_dist.common.errors import UserError
from sae_dist.common.joint import joined, parts_of, short_name, width_of
from sae_dist.config import TrainConfig
from sae_dist.parallel import World
from sae_dist.store import AlignedStores, Store, open_store, write_store
from sae_dist.stream import BatchPart, HeldOutPart, StoredActivations, StreamConfig
from sae_dist.train import Adam, RungConfig, Signum, TrainingRun, training_step
from sae_dist.train.ladder import sites_of
from sae_dist.train.rows import SharedRows
from tests.coders.kinds import config_of_kind
from tests.processes import alone, run_on
from tests.train.ladders import BATCH, rung, training_run
from tests.train.test_training import losses

WIDTH, LATENTS, K, SITES = 6, 24, 3, ("resid_post.1", "resid_post.4", "resid_post.9")


def activations(num_tokens: int = 4096, seed: int = 0) -> dict[str, Tensor]:
    """Directions that sites share and directions of one alone; each site has its own scale."""
    generator = torch.Generator().manual_seed(seed)
    active = torch.rand(num_tokens, 20, generator=generator) < 0.1
    acts = active * torch.rand(num_tokens, 20, generator=generator)
    is_there = torch.rand(len(SITES), 20, 1, generator=generator) < 0.7
    directions = normalize(torch.randn(len(SITES), 20, WIDTH, generator=generator), dim=2)
    return {
        site: 10**number * (acts @ (is_there[number] * directions[number]) + 0.1)
        for number, site in enumerate(SITES)
    }


def make_store(path: Path, sites: tuple[str, ...] = SITES, **told: object) -> Store:
    arrays = {site: [x.numpy()] for site, x in activations().items() if site in sites}
    ids = {"input_ids": [np.arange(4096)]} | told
    return write_store(
        path, arrays, dtype="float32", held_out=0.1, chunk_mib=0.006, shard_mib=0.03, **ids
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("crosscoders") / "store"
    make_store(path)
    return path


def crosscoder(kind: str, latent: int = 1, sites: tuple[str, ...] = SITES, **coder) -> RungConfig:
    one = rung(
        kind, Form.crosscoder, latent, num_sites=len(sites), k=K, num_latents=LATENTS,
        unit_norm_decoder=True, **coder,
    )  # fmt: skip
    one.optim.decay_share = 0.0  # so that a run can be made longer
    return replace(one, site="+".join(sites), target="+".join(sites))


def ladder(latent: int) -> list[RungConfig]:
    """Of each kind one, and of each way in which a decoder's gradient comes."""
    kinds = [crosscoder(kind, latent) for kind in ("jumprelu", "topk", "batchtopk", "abstopk")]
    signum = replace(kinds[1], name="signum", optim=Signum(lr=1e-3, warmup_steps=5))
    sparse = replace(kinds[2], name="sparse", optim=Adam(lr=3e-3, beta1=0.0, ema_decay=0.9))
    return [*kinds, signum, sparse]


def reference_step(
    p: dict[str, Tensor], x_BLd: Tensor, optim: torch.optim.Optimizer, kind: str
) -> float:
    """A step as the papers have it, densely: latents are selected by f_j Σ_l ‖d_j^l‖.

    The decoder is kept on Σ_l ‖d_j^l‖ = 1: its gradient loses what points out of it.
    """
    L = x_BLd.shape[1]
    d_FLd = p["W_dec"].unflatten(1, (L, WIDTH))
    norm_F = d_FLd.norm(dim=2).sum(1)
    encoders_FLd = p["W_enc"].unflatten(1, (L, WIDTH))
    z_BF = p["b_enc"] + sum(
        (x_BLd[:, s] - p["b_dec"].unflatten(0, (L, WIDTH))[s]) @ encoders_FLd[:, s].T
        for s in range(L)
    )
    by_BF = (z_BF * norm_F).detach()
    flat = by_BF if kind == "topk" else by_BF.reshape(1, -1)
    least = flat.sort(1, descending=True).values[:, (K if kind == "topk" else K * len(by_BF)) - 1]
    f_BF = torch.where((by_BF >= least[:, None]) & (by_BF > 0), z_BF, 0.0)
    made_BLd = torch.einsum("bf,fld->bld", f_BF, d_FLd) + p["b_dec"].unflatten(0, (L, WIDTH))
    variation = (x_BLd - x_BLd.mean(0)).square().sum()
    loss = sum((x_BLd[:, s] - made_BLd[:, s]).square().sum() for s in range(L)) / variation
    optim.zero_grad()
    loss.backward()
    with torch.no_grad():
        out_FLd = (d_FLd / d_FLd.norm(dim=2, keepdim=True)).detach()
        grad_FLd = p["W_dec"].grad.unflatten(1, (L, WIDTH))
        grad_FLd -= (grad_FLd * out_FLd).sum((1, 2), keepdim=True) / L * out_FLd
        optim.step()
        norm_F = p["W_dec"].unflatten(1, (L, WIDTH)).norm(dim=2).sum(1)
        p["W_dec"] /= norm_F[:, None]
    return float(loss.detach())


@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
def test_training_equals_a_dense_reference(store: Path, tmp_path: Path, kind: str) -> None:
    config = crosscoder(kind, aux_coefficient=0.0)
    config.optim = Adam(lr=1e-2, beta1=0.9, beta2=0.99, warmup_steps=0)
    run = training_run(alone(), store, tmp_path, [config], 12)
    (only,) = run.rungs
    p = {n: t.detach().clone().requires_grad_() for n, t in only.coder.named_parameters()}
    optim = torch.optim.Adam(p.values(), lr=1e-2, betas=(0.9, 0.99))
    with run._batches() as batches:
        for step, (batch, _) in zip(range(12), batches, strict=False):
            acts = {site: x.double() for site, x in batch.acts.items()}
            raw_BLd = torch.stack([acts[site] for site in SITES], 1)
            scales = [run.source.mean_square(site) ** 0.5 for site in SITES]
            x_BLd = raw_BLd / torch.tensor(scales, dtype=torch.float64)[:, None]
            expected = reference_step(p, x_BLd, optim, kind)
            found = training_step(only, SharedRows(acts, torch.float64), step, 12)
            assert float(found.forward.loss.detach()) == pytest.approx(expected, rel=1e-9)
    for name, parameter in only.coder.named_parameters():
        torch.testing.assert_close(parameter, p[name], rtol=1e-6, atol=1e-9, msg=name)
    sums_F = only.coder.site_norms().sum(1)
    torch.testing.assert_close(sums_F, torch.ones_like(sums_F))


def train(world: World, store: Path, folder: Path, latent: int, steps: int) -> None:
    training_run(world, store, folder, ladder(latent), steps).run()


def test_meshes_give_the_same_losses_and_resuming_is_bitwise(store: Path, tmp_path: Path) -> None:
    train(alone(), store, tmp_path / "whole", 1, 30)
    expected = losses(tmp_path / "whole")
    assert all(v[-1] < v[0] for name, v in expected.items() if "jumprelu" not in name)
    folder = tmp_path / "4-2"
    run_on(4, train, store, folder, 2, 30)
    for name, values in losses(folder).items():
        assert values == pytest.approx(expected[name], rel=1e-9), name
    train(alone(), store, tmp_path / "stopped", 1, 20)
    train(alone(), store, tmp_path / "stopped", 1, 30)
    for folder in sorted((tmp_path / "whole" / "coders").iterdir()):
        whole = load_coder(folder).state_dict()
        stopped = load_coder(tmp_path / "stopped" / "coders" / folder.name).state_dict()
        assert all(torch.equal(whole[name], stopped[name]) for name in whole), folder.name


def test_what_is_written_reads_raw_activations(store: Path, tmp_path: Path) -> None:
    run = training_run(alone(), store, tmp_path, ladder(1), 20)
    run.run()
    raw = {site: x.double() for site, x in activations(50, seed=3).items()}
    raw_ND = joined(raw, "+".join(SITES))
    for one in run.rungs[:4]:
        coder, written = one.coder.eval(), load_coder(tmp_path / "coders" / one.name).double()
        torch.testing.assert_close(
            written(raw_ND) / one.scale, coder(raw_ND / one.scale), rtol=1e-4, atol=1e-5
        )
        assert torch.equal(written.encode(raw_ND) != 0, coder.encode(raw_ND / one.scale) != 0)
        assert one.scale is run.rungs[0].scale  # so that rows are gathered and divided once
    (found, *_) = checkpointed(tmp_path, None, alone())
    assert found.d_in == len(SITES) * WIDTH and found.site == "+".join(SITES)
    described = describe_coder(tmp_path / "coders" / run.rungs[0].name)
    assert described["config"]["num_sites"] == len(SITES)
    assert parts_of(described["about"]["site"]) == list(SITES)


def test_folding_is_undone_and_a_training_goes_on_from_it(store: Path, tmp_path: Path) -> None:
    first = training_run(alone(), store, tmp_path / "first", [crosscoder("batchtopk")], 20)
    first.run()
    (before,) = first.rungs
    again = Coder(before.config.coder, before.coder.d_in, before.coder.d_out, dtype=torch.float64)
    unfold(fold(before.coder, before.scale), before.scale, again)
    for name, tensor in before.coder.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, msg=name)
    where = str(tmp_path / "first" / "coders" / before.name)
    config = replace(crosscoder("batchtopk"), init_from=where)
    (warm,) = training_run(alone(), store, tmp_path / "second", [config], 1).rungs
    torch.testing.assert_close(warm.coder.W_dec, before.coder.W_dec, rtol=1e-5, atol=1e-6)


def test_latents_begin_as_shared_ones_and_reconstruct_what_they_read() -> None:
    config = config_of_kind("topk", form=Form.crosscoder, num_latents=8, k=1, num_sites=2)
    coder = Coder(config, 2 * WIDTH, 2 * WIDTH)
    x_ND = torch.randn(50, 2 * WIDTH, generator=torch.Generator().manual_seed(0))
    initialise(coder, 0, x_ND, x_ND)
    first, second = coder.W_dec.chunk(2, 1)
    assert torch.equal(first, second)
    torch.testing.assert_close(coder.site_norms(), torch.full((8, 2), 0.5))
    x_D = 2 * first[3].repeat(2) + coder.b_dec  # a unit direction at both sites
    torch.testing.assert_close(coder(x_D[None])[0], x_D)


# Two stores of the same tokens.


def test_two_stores_of_the_same_tokens_are_one(store: Path, tmp_path: Path) -> None:
    other = make_store(tmp_path / "other")
    both = AlignedStores(open_store(store), {"chat": other})
    assert list(both.sites) == [*SITES, *(f"chat:{site}" for site in SITES)]
    source = StoredActivations(both)
    assert source.identity != open_store(store).hash and "aligned" in source.about
    pair = (SITES[0], f"chat:{SITES[2]}")
    assert source.mean_square(pair[1]) == other.statistics(SITES[2]).mean_square
    part = BatchPart(BATCH, 0, StreamConfig(), stop_step=3, with_index=True)
    known = {site: x.double() for site, x in activations().items()}
    with source.batches(list(pair), part) as batches:
        for _, (batch, _) in zip(range(3), batches, strict=False):
            for site, of in zip(pair, (SITES[0], SITES[2]), strict=True):
                assert torch.equal(batch.acts[site].double(), known[of][batch.index])
    (held, *_) = source.held_out(list(pair), HeldOutPart())
    assert torch.equal(held.acts[pair[1]].double()[:, 0], known[SITES[2]][held.sequences])
    run = TrainingRun(
        training_run(alone(), store, tmp_path / "a", [crosscoder("topk")], 4).config,
        [crosscoder("batchtopk", sites=pair)],
        source,
        alone(),
        tmp_path / "b",
    )
    run.run()
    assert sites_of(run._configs) == sorted(pair)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": [np.arange(4096) % 7]}, "with other token ids than"),
        ({"trainable": [np.arange(4096) % 7 > 0]}, "with another layout of its tokens than"),
        ({"sites": SITES[:2]}, "with another layout of its tokens than"),
    ],
)
def test_stores_of_other_tokens_are_refused_in_one_line(
    store: Path, tmp_path: Path, change: dict, message: str
) -> None:
    other = make_store(tmp_path / "other", **change)
    with pytest.raises(UserError, match=rf"found aligned\.chat=.* {message} .*; expected the same"):
        AlignedStores(open_store(store), {"chat": other})


# Names.


def test_a_pattern_of_a_crosscoder_stands_for_its_sites_side_by_side() -> None:
    widths = {"resid_post.1": 4, "resid_post.2": 4, "mlp_out.1": 4, "chat:resid_post.1": 4}

    def laid_out(**told: object) -> RungConfig:
        coder = config_of_kind("topk", form=Form.crosscoder, num_latents=16, k=2)
        (found,) = lay_out(TrainConfig(run="r", coder=coder, **told), widths)
        return found

    found = laid_out(site="resid_post.*+mlp_out.1", expansion=8)
    assert found.site == found.target == "resid_post.1+resid_post.2+mlp_out.1"
    assert (found.coder.num_sites, found.coder.num_latents) == (3, 32)
    assert found.name == "topk_crosscoder-32-k2-resid_post.1+2+mlp_out.1"
    both = laid_out(site="resid_post.1+chat:resid_post.1")
    assert both.name == "topk_crosscoder-16-k2-resid_post.1+chat.resid_post.1"
    assert laid_out().coder.num_sites == 4
    with pytest.raises(UserError, match="found a crosscoder of mlp_out.1; expected two or more"):
        laid_out(site="mlp_out.1")
    with pytest.raises(UserError, match="reconstructs its own input: drop target=mlp_out.1"):
        laid_out(target="mlp_out.1")
    with pytest.raises(UserError, match=r"for a autoencoder; expected one site; .*_crosscoder"):
        plain = config_of_kind("topk", num_latents=16, k=2)
        lay_out(TrainConfig(run="r", coder=plain, site="resid_post.1+mlp_out.1"), widths)


def test_names_of_sites_side_by_side() -> None:
    assert short_name("+".join(f"resid_post.{n}" for n in (0, 1, 2, 3, 7))) == "resid_post.0-3+7"
    assert short_name("embed") == "embed" and short_name("resid_post.3") == "resid_post.3"
    assert width_of({"a": 4, "b": 4}, "a+b") == 8 and width_of({"a": 4}, "a+b") is None
    with pytest.raises(UserError, match="found a of 4, b of 6 side by side"):
        width_of({"a": 4, "b": 6}, "a+b")
    with pytest.raises(UserError, match=r"found widths 7 and 7 of coder.num_sites=2"):
        Coder(config_of_kind("topk", form=Form.crosscoder, num_sites=2), 7, 7)
