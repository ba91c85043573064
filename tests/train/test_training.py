"""Training on meshes, and what happens when a batch is not finite."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sae_dist.coders import kind_names, load_coder
from sae_dist.common.errors import UserError
from sae_dist.kernels import host
from sae_dist.parallel import MachineConfig, World
from sae_dist.train import (
    Adam,
    NonFiniteError,
    SharedRows,
    signals,
    training_step,
)
from tests.processes import alone, run_on
from tests.train.ladders import (
    BATCH,
    OPTIMIZERS,
    every_optimizer,
    every_rung,
    make_store,
    rung,
    training_run,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store") / "store")


STEPS = 16


def losses(folder: Path) -> dict[str, list[float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = {line["rung"] for line in lines if line["rung"]}
    return {name: [line["loss"] for line in lines if line["rung"] == name] for name in names}


def train(world: World, store: Path, folder: Path, latent: int) -> None:
    rungs = every_rung(latent) + every_optimizer(latent)
    training_run(world, store, folder, rungs, STEPS).run()


def test_every_mesh_gives_the_same_losses(store: Path, tmp_path: Path) -> None:
    for world, latent in ((1, 1), (2, 1), (2, 2), (4, 2)):
        run_on(world, train, store, tmp_path / f"{world}-{latent}", latent)
    expected = losses(tmp_path / "1-1")
    assert len(expected) == len(every_rung(1)) + len(OPTIMIZERS)
    assert all(len(values) == STEPS for values in expected.values())
    assert all(
        values[-1] < values[0] for name, values in expected.items() if "jumprelu" not in name
    )
    for folder in tmp_path.iterdir():
        for name, values in losses(folder).items():
            assert values == pytest.approx(expected[name], rel=1e-9), (folder.name, name)
        rows_F = load_coder(folder / "coders/topk-autoencoder-muon").W_dec.norm(dim=1)
        torch.testing.assert_close(rows_F, torch.ones_like(rows_F))


def chosen_meshes(world: World, store: Path, folder: Path) -> list[str]:
    """Where each message takes a second, and where each byte does."""
    machines = MachineConfig(latency_us=1e6), MachineConfig(in_node_gbps=1e-9)
    wide = rung("topk", latent=None)
    wide.coder.num_latents = 4096
    runs = (training_run(world, store, folder, [wide], 1, machine=one) for one in machines)
    return [str(run.rungs[0].mesh) for run in runs]


def test_meshes_are_chosen_for_the_machine_s_network(store: Path, tmp_path: Path) -> None:
    assert run_on(2, chosen_meshes, store, tmp_path) == [["2×1", "1×2"]] * 2


def test_the_coder_that_is_written_is_the_average(store: Path, tmp_path: Path) -> None:
    config = replace(rung("topk"), optim=Adam(lr=3e-2, warmup_steps=1, ema_decay=0.5))
    run = training_run(alone(), store, tmp_path, [config], 5)
    run.run()
    mean, written = run.rungs[0].average.weights, load_coder(tmp_path / "coders" / config.name)
    torch.testing.assert_close(written.W_enc.double(), mean["W_enc"])
    unit_FD = torch.nn.functional.normalize(mean["W_dec"], dim=1)
    torch.testing.assert_close(written.W_dec.double(), unit_FD)
    assert not torch.allclose(run.rungs[0].coder.W_enc, mean["W_enc"], rtol=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed was 0, is 1"),
        ({"rungs": [rung("topk", k=5)]}, r"coder.k was 4, is 5"),
    ],
)
def test_a_changed_run_is_refused_with_what_changed(
    store: Path, tmp_path: Path, change: dict, message: str
) -> None:
    def start(world: World, **changed: object) -> None:
        settings = {"rungs": [rung("topk")], "steps": 2} | changed
        rungs, steps = settings.pop("rungs"), settings.pop("steps")
        training_run(world, store, tmp_path, rungs, steps, **settings).run()

    world = alone()
    start(world)
    with pytest.raises(UserError, match=message):
        start(world, **change)


@pytest.mark.parametrize("kind", kind_names())
def test_a_batch_that_is_not_finite_changes_nothing(store: Path, tmp_path: Path, kind: str) -> None:
    run = training_run(alone(), store, tmp_path, [rung(kind)], 5)
    run.run()
    (only,) = run.rungs
    before = {name: tensor.full_tensor().clone() for name, tensor in run._tensors().items()}
    acts = {"in": torch.randn(BATCH, 16, dtype=torch.float64)}
    acts["in"][3, 4] = torch.nan
    for _ in range(9):
        training_step(only, SharedRows(acts, torch.float64), 5, 100)
    after = {name: tensor.full_tensor() for name, tensor in run._tensors().items()}
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert only.progress.counts_3.tolist() == [5, 9, 9]
    acts["in"][3, 4] = 0.0
    training_step(only, SharedRows(acts, torch.float64), 5, 100)
    assert only.progress.counts_3.tolist() == [6, 9, 0]


@pytest.mark.parametrize("at_hand", [True, False])
def test_ten_skipped_steps_in_a_row_end_a_run(
    store: Path, tmp_path: Path, at_hand: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "is_at_hand", lambda x: at_hand)
    run = training_run(alone(), store, tmp_path, [rung("topk")], 12)
    with torch.no_grad():
        run.rungs[0].coder.b_dec.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="10 steps in a row"):
        run.run()
    assert run.rungs[0].progress.counts_3.tolist() == [
        0,
        10,
        10,
    ]  # a histogram's step is waited for


def nan_on_one_rank(world: World, store: Path, folder: Path) -> tuple[int, bool]:
    run = training_run(world, store, folder, [rung("topk", latent=2)], 3)
    run.run()
    acts = {"in": torch.randn(BATCH // 4, 16, dtype=torch.float64)}
    if world.rank == 3:
        acts["in"][0, 0] = torch.inf
    weights = run.rungs[0].coder.W_enc.detach().clone()
    training_step(run.rungs[0], SharedRows(acts, torch.float64), 3, 100)
    return int(run.rungs[0].progress.counts_3[1]), torch.equal(weights, run.rungs[0].coder.W_enc)


def test_a_bad_batch_on_one_rank_is_skipped_by_all(store: Path, tmp_path: Path) -> None:
    assert run_on(4, nan_on_one_rank, store, tmp_path) == [(1, True)] * 4


def test_dead_latents_are_counted_and_revived_by_aux_k(store: Path, tmp_path: Path) -> None:
    run = training_run(alone(), store, tmp_path, [rung("topk", k=1, dead_after_tokens=BATCH)], 60)
    run.run()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    shares = [line["dead_share"] for line in lines if line["rung"]]
    assert any("loss/aux_k" in line for line in lines)
    assert any(later < share for share, later in pairwise(shares))


def test_unit_norm_and_thresholds_are_kept(store: Path, tmp_path: Path) -> None:
    run = training_run(alone(), store, tmp_path, [rung("jumprelu"), rung("batchtopk")], 30)
    run.run()
    jumprelu, batchtopk = (rung.coder for rung in run.rungs)
    torch.testing.assert_close(jumprelu.W_dec.norm(dim=1), torch.ones(32, dtype=torch.float64))
    assert (jumprelu.threshold >= 0).all()
    assert jumprelu.threshold.std() > 0
    assert batchtopk.threshold > 0
    folded = load_coder(tmp_path / "coders" / "batchtopk-autoencoder")
    scale = run.rungs[1].scale
    torch.testing.assert_close(folded.threshold, batchtopk.threshold * scale)


def step_of_the_wish(world: World) -> tuple[int, int]:
    """When a wish of the last process is heard, and how often all asked each other till then."""
    asked = []

    def largest(numbers: list[float]) -> list[float]:
        asked.append(numbers)
        return World.largest(world, numbers)

    anyone = signals.AnyProcess(SimpleNamespace(size=world.size, largest=largest), 0)
    step = next(
        step for step in range(1, 1000) if anyone.wishes(step, world.rank == 1 and step > 100)
    )
    return step, len(asked)


def test_a_wish_to_end_is_heard_by_all_at_one_step_and_not_asked_for_at_each() -> None:
    heard = run_on(2, step_of_the_wish)
    assert heard[0] == heard[1]
    (step, times), _ = heard
    assert 100 < step < 1000 and times < 50
