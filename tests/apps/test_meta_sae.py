"""A meta-SAE: a coder of another coder's decoder rows, trained and evaluated as any other."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from sae_dist.apps import cli, evaluate, train
from sae_dist.apps.rungs import lay_out
from sae_dist.apps.sources import decoder_rows
from sae_dist.coders import Coder, load_coder, save_coder
from sae_dist.common.errors import UserError
from sae_dist.evaluate import EvaluationConfig, finished
from sae_dist.evaluate import evaluate as evaluate_run
from sae_dist.parallel import SharingConfig, World
from tests.apps.test_commands import Command, evaluation, run  # noqa: F401 - a fixture
from tests.coders.kinds import config_of_kind
from tests.processes import alone, run_on
from tests.train.test_training import losses

D, NUM_META, NUM_LATENTS = 32, 24, 600
SETTINGS = (
    *("+experiment=meta_sae", "decoder=base/coders/a", "run=meta", "log.wandb=disabled"),
    *("coder.num_latents=32", "coder.k=2", "coder.aux_k=8", "optim.lr=0.01"),
    *("batch_tokens=200", "coder.dead_after_tokens=2000", "optim.warmup_steps=10"),
    *("precision=float64", "log.every_steps=1"),
)
NAME = "batchtopk-32-k2-decoder"


def directions(seed: int) -> torch.Tensor:
    """The orthogonal unit directions that a made-up decoder consists of."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(D, D, generator=generator)).Q[:NUM_META]


def save_base(folder: Path, seed: int = 0) -> Path:
    """A coder whose decoder rows are pairs of a few directions, of any length, and one of zeros."""
    generator = torch.Generator().manual_seed(seed)
    pair_F2 = torch.rand(NUM_LATENTS, NUM_META, generator=generator).topk(2).indices
    share_F2 = 0.5 + torch.rand(NUM_LATENTS, 2, generator=generator)
    W_FD = (share_F2[:, :, None] * directions(seed)[pair_F2]).sum(1)
    W_FD[7] = 0
    config = config_of_kind("topk", num_latents=NUM_LATENTS, k=4)
    coder = Coder(config, D, D)
    tensors = {name: torch.zeros_like(tensor) for name, tensor in coder.state_dict().items()}
    save_coder(folder / "coders" / "a", coder, tensors | {"W_dec": W_FD}, {"site": "resid_post.1"})
    return folder


def test_known_directions_are_found_and_explain_the_decoder(
    run: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    save_base(tmp_path / "base")
    run(train.main, *SETTINGS, "tokens=60000")
    run(evaluate.main, "run=meta")
    results = evaluation(tmp_path / "runs/meta")
    (figures,) = results["rungs"].values()
    assert results["sequences"] == results["tokens"] == NUM_LATENTS - 1
    assert results["store"]["path"] == "coder:base/coders/a" and results["lm"] is None
    assert "delta_loss" not in figures
    source = decoder_rows(tmp_path / "base/coders/a")
    rows_ND = source.sample(["decoder"], NUM_LATENTS, seed=0)["decoder"]
    error_ND = rows_ND - load_coder(tmp_path / "runs/meta/coders" / NAME)(rows_ND)
    spread_ND = rows_ND - rows_ND.mean(0)
    by_hand = 1 - float(error_ND.square().sum() / spread_ND.square().sum())
    assert figures["variance_explained"] == pytest.approx(by_hand, abs=1e-6)
    assert figures["variance_explained"] > 0.99
    found_MD = load_coder(tmp_path / "runs/meta/coders" / NAME).W_dec
    assert (directions(0) @ found_MD.T).max(1).values.min() > 0.85  # b_dec has some of their mean


def trained(world: World, folder: Path, tokens: int) -> None:
    """The command's run, on a world that is there already."""
    overrides = [*SETTINGS, f"tokens={tokens}", "checkpoint.every_steps=10"]
    config = cli.compose("train", overrides)
    source = decoder_rows(folder.parent / "base/coders/a")
    rungs = lay_out(config, source.widths)
    folder.mkdir(exist_ok=True)
    train.TrainingRun(config, rungs, source, world, folder).run()


def evaluated(world: World, folder: Path, latent: int = 1) -> dict:
    source = decoder_rows(folder.parent / "base/coders/a")
    config = EvaluationConfig(batch_tokens=64, parallel=SharingConfig(latent=latent))
    (results,) = evaluate_run(finished(folder, world.device), source, None, config, world)
    return results


def trained_and_evaluated(world: World, folder: Path, tokens: int, other: Path) -> list[dict]:
    """Train; what the other run measures, read in parts and held in slices."""
    trained(world, folder, tokens)
    return [evaluated(world, other, latent) for latent in (1, 2)]


def test_two_processes_train_and_measure_as_one_does(tmp_path: Path) -> None:
    save_base(tmp_path / "base")
    trained(alone(), tmp_path / "one", 4000)
    both = run_on(2, trained_and_evaluated, tmp_path / "two", 4000, tmp_path / "one")
    one, two = losses(tmp_path / "one")[NAME], losses(tmp_path / "two")[NAME]
    assert len(one) == 20 and two == pytest.approx(one, rel=1e-9)
    (expected,) = evaluated(alone(), tmp_path / "one")["rungs"].values()
    for results in [results for each in both for results in each]:
        (found,) = results["rungs"].values()
        for name in ("tokens", "l0", "variance_explained", "dead_share"):
            assert found[name] == pytest.approx(expected[name], rel=1e-9)


def test_a_run_goes_on_bitwise_but_not_on_another_decoder(tmp_path: Path) -> None:
    save_base(tmp_path / "base")
    trained(alone(), tmp_path / "whole", 4000)
    trained(alone(), tmp_path / "stopped", 2600)  # within an epoch: two steps make one
    trained(alone(), tmp_path / "stopped", 4000)
    assert losses(tmp_path / "whole") == losses(tmp_path / "stopped")
    whole, stopped = (load_coder(tmp_path / n / "coders" / NAME) for n in ("whole", "stopped"))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, stopped.state_dict()[name])
    save_base(tmp_path / "base", seed=1)
    with pytest.raises(UserError, match="source was coder sha256:.*, is coder sha256:"):
        trained(alone(), tmp_path / "stopped", 4000)


def test_rows_are_unit_directions_and_a_decoder_without_any_is_refused(tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base") / "coders" / "a"
    source = decoder_rows(folder)
    rows_ND = source.sample(["decoder"], NUM_LATENTS, 0)["decoder"]
    assert (len(rows_ND), source.widths) == (NUM_LATENTS - 1, {"decoder": D})
    torch.testing.assert_close(rows_ND, normalize(rows_ND, dim=1))
    coder = load_coder(folder)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in coder.state_dict().items()}
    save_coder(folder, coder, zeros, {})
    with pytest.raises(UserError, match="is all zeros; expected a trained coder"):
        decoder_rows(folder)
    with pytest.raises(UserError, match="no coder in"):
        decoder_rows(tmp_path / "nothing")
