"""A training's plan beside real rungs, checkpoints and streams, and beside arithmetic by hand."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from sae_dist.coders import Form, TopK, kind_names
from sae_dist.coders.flops import step_flops
from sae_dist.common.dtypes import FloatDtype
from sae_dist.common.errors import UserError
from sae_dist.kernels import aux, search
from sae_dist.parallel import MachineConfig, MeshConfig, World, make_mesh
from sae_dist.plan import TrainingPlan, plan_training, rung_memory
from sae_dist.plan import memory as plan_memory
from sae_dist.plan.memory import checkpoint_bytes, ranked_bytes, working_memory
from sae_dist.plan.rung import RungPlan, moved_bytes, plan_rung
from sae_dist.store import open_store
from sae_dist.store.layout import Layout
from sae_dist.stream import ActivationStream, BatchPart, StreamConfig
from sae_dist.train import Adam, LoopConfig, Muon, RungConfig, Signum
from sae_dist.train.config import Precision
from sae_dist.train.rung import Rung
from tests.coders.kinds import FORMS, config_of_kind
from tests.processes import run_on
from tests.train.ladders import BATCH, D, E, make_store, rung, training_run

OPTIMS = [
    Adam(beta1=0.0),
    Adam(beta1=0.9, ema_decay=0.99),
    Signum(),
    Signum(momentum=0.0),
    Muon(ema_decay=0.99),
]
CASES = [
    *itertools.product(kind_names(), FORMS, OPTIMS[:2], Precision),
    *itertools.product(["jumprelu"], [Form.skip_transcoder], OPTIMS, [Precision.float32]),
]
LAYOUT = Layout(
    num_sequences=1000,
    sequence_length=100,
    shard_sequences=100,
    chunk_sequences=5,
    chunk_rows=500,
)
WIDTHS = {"in": D, "out": E}


GROUPS = {
    "silent": "counters",
    "fired": "counters",
    "optimizer": "moments",
    "average": "average",
}


def held(world: World, latent: int) -> list[str]:
    """Where what a process holds is not what was planned."""
    wrong = []
    mesh = make_mesh(world, latent, {})
    for kind, form, optim, precision in CASES:
        config = replace(rung(kind, form), optim=optim)
        d_out = WIDTHS[config.target]
        real = Rung(config, mesh, 1.0, D, d_out, precision, world.device)
        encoder = real.coder.encoder()
        found = dict.fromkeys(("parameters", "moments", "counters"), 0)
        for name, tensor, _ in real.held():
            group = GROUPS.get(name.partition("/")[0], "parameters")
            found[group] = found.get(group, 0) + tensor.nbytes
        extra = (encoder.copy_FD, encoder.error_F, encoder.norm_F)
        found["rounded"] = sum(tensor.nbytes for tensor in extra if tensor is not None)
        found["gradients"] = sum(p.nbytes for p in real.coder.parameters())
        sizes = {
            "bytes_per_value": precision.weights.itemsize,
            "bytes_per_searched": 0 if encoder.copy_FD is None else encoder.bf16_FD.itemsize,
        }
        planned = rung_memory(config.coder, config.optim, D, d_out, latent, **sizes)
        if found != planned:
            wrong.append(f"{kind} {form} {optim} {precision}: held {found}, planned {planned}")
    return wrong


@pytest.mark.parametrize("latent", [1, 2])
def test_a_process_holds_exactly_the_planned_tensors(latent: int) -> None:
    assert run_on(latent, held, latent) == [[]] * latent


def widened(num_latents: int) -> RungConfig:
    """A rung of that width, on a mesh that is chosen for it."""
    config = rung("topk", latent=None)
    config.coder.num_latents = num_latents
    return config


def checkpointed(world: World, folder: Path, wide: RungConfig) -> tuple[int, int]:
    """Bytes of the files of tensors of a checkpoint, and those of the coder."""
    run = training_run(world, make_store(folder / "store"), folder / "run", [wide], 2)
    run.run()
    saved = (folder / "run/checkpoints/step-2").glob("*.distcp")
    coder = folder / "run/coders" / wide.name / "coder.safetensors"
    return sum(path.stat().st_size for path in saved), coder.stat().st_size


def test_a_checkpoint_takes_the_planned_bytes_and_at_most_40_kb_more(tmp_path: Path) -> None:
    wide = widened(4096)
    saved, coder = run_on(1, checkpointed, tmp_path, wide)[0]
    memory = rung_memory(wide.coder, wide.optim, D, D, bytes_per_value=8)
    assert checkpoint_bytes(memory) <= saved <= checkpoint_bytes(memory) + 40_000
    assert saved < 1.02 * checkpoint_bytes(memory)
    assert coder == pytest.approx(memory["parameters"], rel=0.002)


def planned(
    rungs: list[RungConfig] | None = None,
    machine: dict | None = None,
    dtype: FloatDtype = FloatDtype.bfloat16,
    **loop,
) -> TrainingPlan:
    settings = {"tokens": 100_000, "batch_tokens": 1000, "stream": StreamConfig()}
    config = LoopConfig(**(settings | loop))
    return plan_training(
        config,
        [rung("jumprelu", latent=None)] if rungs is None else rungs,
        WIDTHS,
        LAYOUT,
        dtype,
        MachineConfig(**({"devices": 1, "efficiency": 1.0} | (machine or {}))),
    )


def test_the_stream_holds_what_is_planned(tmp_path: Path) -> None:
    store = open_store(make_store(tmp_path / "store"))
    config = StreamConfig(bucket_tokens=2048)
    for world in (1, 2):
        stream = ActivationStream(store, ["in"], BatchPart(BATCH, 0, config, 0, world))
        plan = plan_training(
            LoopConfig(tokens=10 * BATCH, batch_tokens=BATCH, stream=config),
            [rung("topk")],
            WIDTHS,
            store.layout,
            store.dtype,
            MachineConfig(devices=world),
        )
        assert 0.7 * plan.host_bytes["stream"] < stream.memory_bound <= plan.host_bytes["stream"]


def test_a_step_is_arithmetic() -> None:
    coder, B = config_of_kind("topk", num_latents=64, k=4), 100
    product, sparse = step_flops(coder, D, E, B)
    assert product == 2 * B * 64 * D
    assert sparse == pytest.approx(B * 4 * (2 * 1.6 * D + 6 * E + 2 * D))
    skip = replace(coder, form=Form.skip_transcoder)
    assert step_flops(skip, D, E, B)[0] == product + 4 * B * D * E
    twice = step_flops(replace(coder, multi_topk=True), D, E, B)
    assert twice == pytest.approx((2 * product, 5 * sparse))
    dense = moved_bytes(coder, Adam(beta1=0.9), D, E, B, (1, 1), 4)
    search, entries = 2 * (64 * D + 2 * B * 64), B * 4 * 4 * (1.6 * D + 3 * E + D)
    assert dense == pytest.approx(search + entries + 64 * (8 * (D + E) * 4 + 2 * D))
    few = replace(coder, num_latents=4000, k=1)
    rows = 100 / 4000  # of the latents can have fired
    sparse_update = moved_bytes(few, Adam(beta1=0.0), D, E, B, (1, 1), 4)
    search, entries = 2 * (4000 * D + 2 * B * 4000), B * 4 * (1.6 * D + 3 * E + D)
    update = rows * 4000 * (6 * (D + E) * 4 + 2 * D)
    assert sparse_update == pytest.approx(search + entries + update)


def test_a_ladder_is_the_sum_of_its_rungs_and_reads_once() -> None:
    one, two = rung("topk"), rung("jumprelu", Form.transcoder)
    plan = planned([one, two], {"disk_gbps": 1e-6})
    assert plan.num_steps == 100 and plan.num_tokens == 100_000
    assert plan.read_bytes == 100_000 * (D + E) * 2
    assert planned([one, two], dtype=FloatDtype.int8).read_bytes == 100_000 * (D + E + 2 * 4)
    assert plan.disk_hours == pytest.approx(plan.read_bytes / 1e3 / 3600) == plan.hours
    seconds = sum(planned([each]).rungs[0].step_seconds for each in (one, two))
    assert plan.compute_hours == pytest.approx(100 * seconds / 3600)
    parameters = [each.device_bytes["parameters"] for each in plan.rungs]
    working = [each.device_bytes["working"] for each in plan.rungs]
    assert plan.device_bytes["parameters"] == sum(parameters)
    assert plan.device_bytes["working"] == max(working)
    saved = [each.checkpoint_bytes for each in plan.rungs]
    assert plan.checkpoint_bytes == sum(saved)  # 100 steps: only the last is saved
    longer = planned([one, two], tokens=10_000_000)
    assert longer.checkpoint_bytes == 3 * sum(saved)  # two kept while a third is written


def test_meshes_are_those_that_training_takes() -> None:
    wide, narrow = widened(2**20), widened(8)
    chosen = rung("topk", latent=2)
    plan = planned([wide, narrow, chosen], {"devices": 4}, batch_tokens=4096)
    assert [each.mesh for each in plan.rungs] == [(1, 4), (4, 1), (2, 2)]
    assert all(each.sent_bytes > 0 for each in plan.rungs)
    assert planned().rungs[0].sent_bytes == planned().rungs[0].message_seconds == 0


def test_a_step_waits_for_the_messages_of_the_machine_s_network() -> None:
    ideal = {"devices": 4, "latency_us": 0, "in_node_gbps": 1e9}
    nodes = {"devices_per_node": 2, "between_nodes_gbps": 25.0}

    def rung_on(**network: float) -> RungPlan:
        return planned([rung("topk", latent=2)], ideal | network).rungs[0]

    ideally = rung_on()
    assert ideally.message_seconds == pytest.approx(0, abs=1e-9)
    for network in ({"latency_us": 20}, {"in_node_gbps": 225.0}, nodes):
        found = rung_on(**network)
        assert found.sent_bytes == ideally.sent_bytes and found.message_seconds > 1e-7
        more = found.step_seconds - ideally.step_seconds
        assert more == pytest.approx(found.message_seconds, rel=1e-3)


@pytest.mark.parametrize(
    ("machine", "loop", "said"),
    [
        ({"disk_free_gb": 1e-6}, {}, "disk: checkpoints and coders take"),
        ({"memory_gib": 1e-4}, {}, "memory: training takes about"),
        ({"devices": 3}, {}, "batch: 3 devices do not divide batch_tokens=1000"),
        ({}, {"tokens": 200_000, "batch_tokens": 100_001}, "batch: batch_tokens=100001 of 100,000"),
        ({}, {"tokens": 300_000}, "tokens: training takes 300,000, 3.0 times"),
    ],
)
def test_what_will_not_fit_is_said_in_a_line(machine: dict, loop: dict, said: str) -> None:
    plan = planned(machine=machine, **loop)
    assert len(plan.warnings) == 1 and plan.warnings[0].startswith(said)
    assert "\n" not in plan.warnings[0]


def test_a_rung_that_fits_no_mesh_is_told_and_left_out() -> None:
    small = rung("topk")
    small.parallel = MeshConfig(latent=None, memory_gib=1e-9)
    plan = planned([small, rung("jumprelu")])
    assert [each.name for each in plan.rungs] == ["jumprelu-autoencoder"]
    assert plan.warnings[0].startswith("mesh: topk-autoencoder: 32 latents need")


def test_sites_that_are_not_harvested_are_told() -> None:
    with pytest.raises(UserError, match="found rungs that read other; expected sites of the"):
        planned([replace(rung("topk"), site="other")])


@pytest.mark.parametrize(("kind", "beta1", "most_gib"), [("jumprelu", 0.0, 60), ("topk", 0.9, 103)])
def test_a_million_latents_fit_one_gpu_of_141_gb(kind: str, beta1: float, most_gib: float) -> None:
    """2,304 wide, 4,096 rows a step; AuxK on, all latents dead."""
    million = widened(2**20)
    million.coder = config_of_kind(kind, num_latents=2**20, aux_k=512, aux_coefficient=1 / 32)
    million.optim.beta1, million.parallel = beta1, MeshConfig(latent=1)
    rung = plan_rung(million, 2304, 2304, 4096, 4, MachineConfig(devices=1))
    assert sum(rung.device_bytes.values()) < most_gib * 2**30 < 0.95 * 141e9


def test_a_block_of_the_search_is_as_large_as_on_a_gpu() -> None:
    assert search._BLOCK_VALUES["cuda"] == plan_memory._BLOCK_VALUES
    assert aux._BLOCK_VALUES["cuda"] == plan_memory._DEAD_VALUES
    assert "cuda" not in search._BLOCK_LATENTS  # but all latents of some rows
    few, many = (TopK(num_latents=F) for F in (2**16, 2**20))
    one, two = (working_memory(coder, 16, 16, 4096, 1) for coder in (few, many))
    assert 0 <= one - two <= 4096 * ranked_bytes(few)  # the same values of fewer rows


def test_as_much_is_ranked_as_on_a_gpu() -> None:
    triton_search = pytest.importorskip("sae_dist.kernels.triton_search", reason="needs triton")
    assert ranked_bytes(TopK(num_latents=2**16, k=32)) == 20 * triton_search._LEAST_ROOM
    assert ranked_bytes(TopK(num_latents=2**16, k=400)) == 20 * 2048
