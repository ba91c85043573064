"""What is found of latents is what a dense code shows, on any mesh and after any interruption."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_dist.checkpoint.ranks import on_first_rank
from sae_dist.coders import Coder, Form, load_coder, save_coder
from sae_dist.common.errors import UserError
from sae_dist.evaluate import finished
from sae_dist.latents import Latents, WatchConfig, rungs_with_latents, watch
from sae_dist.latents.columns import BINS
from sae_dist.latents.parts import Parts
from sae_dist.lm import Unembedding, unembeddings
from sae_dist.parallel import SharingConfig, World
from sae_dist.store import open_store
from sae_dist.stream import StoredActivations
from tests.coders.kinds import config_of_kind
from tests.harvest.tiny import tiny_harvest
from tests.latents.dense import columns, correlations, dense_code
from tests.lm.tiny import VOCAB, WIDTH, tiny_model
from tests.processes import alone, run_on

CODERS = {
    "topk": ("topk", Form.autoencoder, "resid_post.1", "resid_post.1", 48),
    "topk-wide": ("topk", Form.autoencoder, "resid_post.1", "resid_post.1", 96),
    "abstopk": ("abstopk", Form.autoencoder, "resid_post.1", "resid_post.1", 48),
    "jumprelu": ("jumprelu", Form.autoencoder, "resid_post.1", "resid_post.1", 48),
    "skip": ("batchtopk", Form.skip_transcoder, "mlp_in.1", "mlp_out.1", 48),
    "reads-mlp": ("topk", Form.autoencoder, "mlp_in.1", "mlp_in.1", 48),
}
FEW: dict[str, Any] = {
    "part_tokens": 16,
    "batch_tokens": 8,
    "strongest": 2,
    "quantiles": 3,
    "per_quantile": 2,
    "window": 5,
    "neighbours": 4,
    "memory_gib": 1e-5,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run's folder with coders that nobody trained, and a store, of which 12 × 8 are held out."""
    folder = tmp_path_factory.mktemp("watch")
    generator = torch.Generator().manual_seed(0)
    for name, (kind, form, site, target, num_latents) in CODERS.items():
        config = config_of_kind(kind, form=form, num_latents=num_latents, k=5)
        coder = Coder(config, WIDTH, WIDTH, pre_bias=False)
        tensors = {
            key: torch.randn(tensor.shape, generator=generator).abs() * 0.2 + 0.3
            if "threshold" in key
            else 0.2 * torch.randn(tensor.shape, generator=generator)
            for key, tensor in coder.state_dict().items()
        }
        about = {"site": site, "target": target}
        save_coder(folder / "r" / "coders" / name, coder, tensors, about)
    tiny_harvest(folder / "store")
    return folder / "r", folder / "store"


def unembed(sites: list[str]) -> dict[str, Unembedding | None]:
    return unembeddings(tiny_model("llama"), sites)


def watched(world: World, run: Path, store: Path, **settings: Any) -> None:
    """Latents from the beginning."""
    on_first_rank(None, lambda: shutil.rmtree(run / "latents", ignore_errors=True))
    gone_on_with(world, run, store, **settings)


def gone_on_with(world: World, run: Path, store: Path, **settings: Any) -> None:
    source = StoredActivations(open_store(store))
    watch(finished(run, world.device), source, unembed, WatchConfig(**FEW | settings), world)


@pytest.fixture(scope="module")
def latents(made: tuple[Path, Path]) -> dict[str, Latents]:
    """What one process finds, by rung."""
    watched(alone(), *made)
    return {rung: Latents(made[0], rung) for rung in rungs_with_latents(made[0])}


@pytest.mark.parametrize("rung", CODERS)
def test_columns_are_those_of_the_dense_code(
    rung: str, made: tuple[Path, Path], latents: dict[str, Latents]
) -> None:
    source, found = StoredActivations(open_store(made[1])), latents[rung]
    coder = load_coder(made[0] / "coders" / rung)
    acts_TF, trainable_T = dense_code(coder, source, CODERS[rung][2])
    assert len(found.rung.edges) > 2 and found.about.num_tokens == trainable_T.sum()
    assert found.rung.l0 == (acts_TF != 0).sum() / trainable_T.sum() > 1
    for latent, acts_T in enumerate(acts_TF.T):
        for name, expected in columns(acts_T, 8, WatchConfig(**FEW), BINS).items():
            row = found.row(name, latent)
            assert np.allclose(row, expected, rtol=1e-5, atol=1e-6), (latent, name)
        tokens, values = found.fired(latent)
        assert np.array_equal(tokens, acts_T.nonzero()[0])
        assert np.allclose(values, acts_T[tokens], rtol=1e-5)
    assert (found.column("examples") >= 0).any(0).all()
    if rung == "abstopk":
        assert (found.column("values") < 0).any() and (found.column("max") >= 0).all()


def test_latents_that_fire_together_are_those_that_correlate(
    made: tuple[Path, Path], latents: dict[str, Latents]
) -> None:
    found, source = latents["topk"], StoredActivations(open_store(made[1]))
    coder = load_coder(made[0] / "coders" / "topk")
    phi_FF = correlations(*dense_code(coder, source, "resid_post.1"))
    best_FK = (-np.sort(-phi_FF, axis=1)[:, :4]).clip(min=0)
    assert np.allclose(found.column("together"), best_FK, atol=1e-6)
    which_FK = found.column("cofiring")
    own_FK = np.take_along_axis(phi_FF, which_FK.clip(min=0).astype(int), 1)
    assert np.allclose(np.where(which_FK >= 0, own_FK, 0), best_FK, atol=1e-6)
    assert (which_FK >= 0).mean() > 0.4


def test_neighbours_are_the_nearest_decoder_rows(
    made: tuple[Path, Path], latents: dict[str, Latents]
) -> None:
    rows = {r: load_coder(made[0] / "coders" / r).W_dec for r in ("topk", "topk-wide", "abstopk")}
    unit = {rung: W / W.norm(dim=1, keepdim=True) for rung, W in rows.items()}
    for rung in ("topk", "abstopk"):
        cosine_FF = (unit[rung] @ unit[rung].T).fill_diagonal_(0)
        size_FF = cosine_FF.abs() if rung == "abstopk" else cosine_FF
        which_FK = size_FF.topk(4).indices
        assert np.array_equal(latents[rung].column("nearest"), which_FK)
        assert np.allclose(latents[rung].column("cosine"), cosine_FF.gather(1, which_FK), atol=1e-6)
    for one, other in (("topk", "topk-wide"), ("topk-wide", "topk")):
        ((name, (nearest, cosine)),) = latents[one].beside().items()
        top = (unit[one] @ unit[other].T).topk(3)
        assert name == other and np.array_equal(nearest, top.indices)
        assert np.allclose(cosine, top.values, atol=1e-6)
    assert latents["abstopk"].beside() == {}


def test_logits_are_what_the_language_model_adds(latents: dict[str, Latents], made) -> None:
    model = tiny_model("llama")
    for rung in ("topk", "skip"):
        W_dec = load_coder(made[0] / "coders" / rung).W_dec
        effect_FV = (W_dec * model.model.norm.weight) @ model.lm_head.weight.T
        top, found = effect_FV.topk(10), latents[rung]
        assert np.array_equal(found.column("top_tokens"), top.indices)
        assert np.allclose(found.column("top_logits"), top.values, atol=1e-5)
        bottom = effect_FV.topk(10, largest=False)
        assert np.array_equal(found.column("bottom_tokens"), bottom.indices)
        assert np.allclose(found.column("logits_range")[:, 1], effect_FV.amax(1), atol=1e-5)
        assert (found.column("logits_histogram").sum(1) == VOCAB).all()
    assert not latents["reads-mlp"].has("top_tokens")


@pytest.mark.parametrize(("world", "latent"), [(2, 1), (2, 2)])
def test_a_mesh_finds_the_same(
    world: int, latent: int, made: tuple[Path, Path], latents: dict[str, Latents], tmp_path: Path
) -> None:
    shutil.copytree(made[0] / "coders", tmp_path / "r" / "coders")
    settings = {"parallel": SharingConfig(latent=latent), "rungs": ["topk*", "abstopk"]}
    run_on(world, _watch_on, tmp_path / "r", made[1], settings)
    for rung in ("topk", "topk-wide", "abstopk"):
        assert_equal(Latents(tmp_path / "r", rung), latents[rung])


def _watch_on(world: World, run: Path, store: Path, settings: dict[str, Any]) -> None:
    watched(world, run, store, **settings)


def assert_equal(one: Latents, other: Latents) -> None:
    assert one.about == other.about
    names = one._file(0).keys()
    assert names == other._file(0).keys()
    for name in names:
        assert np.allclose(one.column(name), other.column(name), atol=1e-5), name
    for latent in range(one.rung.num_latents):
        assert all(map(np.allclose, one.fired(latent), other.fired(latent)))
    for name, own in one.beside().items():
        assert all(map(np.allclose, own, other.beside()[name]))
    assert np.array_equal(one.token_ids_NS, other.token_ids_NS)


def test_it_goes_on_where_it_was_ended(
    made: tuple[Path, Path],
    latents: dict[str, Latents],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "r"
    shutil.copytree(made[0] / "coders", run / "coders")
    write, written = Parts.write, []

    def write_three(self: Parts, number: int, *rest: Any) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(number)
        write(self, number, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Parts, "write", write_three)
        gone_on_with(alone(), run, made[1], rungs=["topk"])
    assert rungs_with_latents(run) == []
    later: list[int] = []
    with monkeypatch.context() as patch:
        note = lambda self, number, *rest: later.append(number) or write(self, number, *rest)  # noqa: E731
        patch.setattr(Parts, "write", note)
        gone_on_with(alone(), run, made[1], rungs=["topk"])
    assert written == [0, 1, 2] and later == [3, 4, 5]
    assert_equal(Latents(run, "topk"), latents["topk"])
    assert not (run / "latents/topk/parts").exists()
    with monkeypatch.context() as patch:
        patch.setattr(Parts, "write", None)
        gone_on_with(alone(), run, made[1], rungs=["topk"])  # which is there


def test_other_settings_and_other_coders_are_told_and_made_anew(
    made: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "r"
    shutil.copytree(made[0] / "coders", run / "coders")
    one = {"rungs": ["topk"], "max_sequences": 6}
    gone_on_with(alone(), run, made[1], **one)
    gone_on_with(alone(), run, made[1], **one, window=4)
    assert "latents of topk are made anew: window changed" in capsys.readouterr().err
    assert Latents(run, "topk").column("values").shape[2] == 4
    gone_on_with(alone(), run, made[1], rungs=["abstopk"])
    assert "of other sequences" in capsys.readouterr().err
    assert rungs_with_latents(run) == ["abstopk"]
    gone_on_with(alone(), run, made[1], rungs=["abstopk"])
    assert "made anew" not in capsys.readouterr().err
    for name in ("coder.json", "coder.safetensors"):
        shutil.copy(run / "coders" / "jumprelu" / name, run / "coders" / "abstopk" / name)
    gone_on_with(alone(), run, made[1], rungs=["abstopk"])
    assert "latents of abstopk are made anew: coder changed" in capsys.readouterr().err
    assert Latents(run, "abstopk").rung.kind == "jumprelu"


def test_what_does_not_fit_is_refused(made: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match="must divide the 1 processes"):
        watched(alone(), *made, parallel=SharingConfig(latent=2))
    with pytest.raises(UserError, match="expected rungs of .*topk-wide"):
        watched(alone(), *made, rungs=["gated"])
