"""What the rungs of a ladder share of a batch."""

import json
from pathlib import Path

import pytest
import torch

from sae_dist.coders import Form
from sae_dist.parallel import World, make_mesh
from sae_dist.train import RungConfig, SharedRows
from tests.processes import run_on
from tests.train.ladders import BATCH, D, E, make_store, rung, training_run

STEPS = 4
AUTOENCODER, TRANSCODER = rung("topk", latent=2), rung("topk", Form.transcoder, latent=2)
LADDER = [rung("jumprelu", latent=2), AUTOENCODER, TRANSCODER, rung("batchtopk", latent=1)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store") / "store")


def train(world: World, store: Path, folder: Path, rungs: list[RungConfig]) -> dict[str, int]:
    """Train; the bytes that one process has handed to collectives, by rung."""
    run = training_run(world, store, folder, rungs, STEPS)
    run.run()
    return {rung.name: rung.mesh.bytes_sent for rung in run.rungs}


def losses(folder: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["rung"] == name]


def test_rungs_of_one_site_and_mesh_gather_its_rows_once(store: Path, tmp_path: Path) -> None:
    together = run_on(2, train, store, tmp_path / "ladder", LADDER)[0]
    for config, width_saved in zip(LADDER, (0, D, D, 0), strict=True):
        folder = tmp_path / config.name
        alone = run_on(2, train, store, folder, [config])[0]
        saved = STEPS * (BATCH // 2) * width_saved * 4  # stored as float32
        assert together[config.name] == alone[config.name] - saved
        assert losses(tmp_path / "ladder", config.name) == losses(folder, config.name)


def shared_by(world: World) -> tuple[int, bool, bool]:
    mesh, other = make_mesh(world, 2, {}), make_mesh(world, 1, {})
    x_BD = torch.randn(6, E, generator=torch.Generator().manual_seed(0)).bfloat16()
    batch = SharedRows({"x": x_BD[3 * world.rank :][:3]}, torch.float64)
    whole, here = batch.normalised("x", 3.0, mesh), batch.normalised("x", 3.0, other)
    is_right = torch.equal(whole, x_BD.double() / 3.0)
    return mesh.bytes_sent, is_right, torch.equal(here, whole[3 * world.rank :][:3])


def test_rows_cross_the_latent_axis_as_they_are_stored() -> None:
    assert run_on(2, shared_by) == [(3 * E * 2, True, True)] * 2


def scaled(world: World) -> tuple[bool, list[float], list[float]]:
    mesh = make_mesh(world, 1, {})
    batch = SharedRows({"x": torch.full((2, 3), 12.0)}, torch.float32)
    half, third = batch.normalised("x", 2.0, mesh), batch.normalised("x", 3.0, mesh)
    is_shared = batch.normalised("x", 2.0, mesh) is half
    return is_shared, half.unique().tolist(), third.unique().tolist()


def test_each_scale_has_its_own_rows() -> None:
    assert run_on(1, scaled) == [(True, [6.0], [4.0])]
