"""A harvest's plan beside a real harvest, and beside arithmetic by hand."""

from dataclasses import replace
from pathlib import Path

import pytest

from sae_dist.common.dtypes import FloatDtype
from sae_dist.lm import LMConfig, LMSize, lm_size
from sae_dist.parallel import MachineConfig
from sae_dist.plan import HarvestPlan, Tokens, plan_harvest
from sae_dist.store import StoreConfig
from tests.harvest.tiny import NUM_SEQUENCES, POSITIONS, SITES, tiny_harvest, tiny_writer
from tests.lm.test_size import described

MACHINE = MachineConfig(devices=2, flops_float32=1e6, disk_gbps=1e-3, efficiency=0.5)
SIZE = LMSize(
    parameters=1000,
    num_layers=3,
    matrix_parameters=500,
    d_model=8,
    d_mlp=16,
    num_heads=2,
    d_attention=6,
    widths={"a": 8, "b": 4},
    bytes_per_value=4,
    is_eager=False,
)
TOKENS = Tokens(num_tokens=6405, sequence_length=64, batch_sequences=5)
STORE = StoreConfig(chunk_mib=0.01, shard_mib=0.05, held_out=0.34)


def planned(size: LMSize = SIZE, store: StoreConfig = STORE, **machine: float) -> HarvestPlan:
    return plan_harvest(size, TOKENS, store, replace(MACHINE, **machine))


def test_a_store_takes_exactly_the_planned_bytes_but_for_its_json(tmp_path: Path) -> None:
    tiny_harvest(tmp_path / "store")
    settings = tiny_writer(tmp_path / "other").settings
    sequence_mib = POSITIONS * sum(settings.widths.values()) * 4 / 2**20
    plan = plan_harvest(
        lm_size(LMConfig(name="tiny"), described("llama"), list(SITES)),
        Tokens(num_tokens=NUM_SEQUENCES * POSITIONS, sequence_length=POSITIONS, batch_sequences=4),
        StoreConfig(
            dtype=FloatDtype.float32,
            chunk_mib=1.01 * settings.chunk_rows / POSITIONS * sequence_mib,
            shard_mib=settings.shard_sequences * sequence_mib,
            held_out=0.25,
        ),
        MACHINE,
    )
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    found: dict[str, int] = {}
    for path in files:
        if path.name.startswith("c."):
            array = str(path.parent.relative_to(tmp_path / "store")).partition("/")[2]
            array = array.removeprefix("activations/")
            found[array] = found.get(array, 0) + path.stat().st_size
    assert found.keys() == plan.bytes_by_array.keys()
    for array, num_bytes in found.items():  # the first of eight positions is not trained on
        assert 0.8 * plan.bytes_by_array[array] < num_bytes <= plan.bytes_by_array[array]
    assert found["input_ids"] == plan.bytes_by_array["input_ids"]


CHUNK, INDEX = 4 + 16, 4  # a checksum after each chunk and its place in the index; the index' own


def of_rows(num_bytes: int) -> int:
    """Units of 36 and 28 sequences, in 6 and 5 chunks of 384 rows; places for 6 in each index."""
    return 11 * (384 * num_bytes + CHUNK) + 16 + 2 * INDEX


def of_sequences(num_bytes: int) -> int:
    """One of 36 sequences in 6 chunks."""
    return 6 * (6 * 64 * num_bytes + CHUNK) + INDEX


def test_a_plan_is_arithmetic() -> None:
    plan = planned()
    # 100 sequences of 64 · 12 · 2 bytes, 36 of them a shard: 0 and 2 are rows, 1 is held out
    layout = plan.layout
    assert (layout.shard_sequences, layout.chunk_sequences, layout.chunk_rows) == (36, 6, 384)
    assert layout.num_units == 3
    assert plan.bytes_by_array == {
        "input_ids": 3 * (36 * 64 * 4 + CHUNK + INDEX),
        "marks": 3 * (36 * 64 + CHUNK + INDEX),
        "index": of_rows(8),
        "a": of_rows(8 * 2) + of_sequences(8 * 2),
        "b": of_rows(4 * 2) + of_sequences(4 * 2),
    }
    flops = 6400 * (2 * 500 + 4 * 64 * 6 * 3)
    assert plan.flops == flops
    assert plan.compute_hours == pytest.approx(flops / (0.5 * 1e6) / 2 / 3600)
    assert plan.disk_hours == pytest.approx(plan.store_bytes / 1e6 / 3600)
    assert plan.hours == max(plan.compute_hours, plan.disk_hours)
    assert plan.device_bytes["weights"] == 4000
    assert plan.device_bytes["sites"] == 5 * 64 * 12 * 4
    assert plan.host_bytes == {"shards": 2 * 36 * 64 * 12 * 2}
    assert plan.warnings == []


def test_eight_bits_take_a_byte_a_value_and_a_scale_a_token() -> None:
    store = replace(STORE, dtype=FloatDtype.int8, chunk_mib=0.005, shard_mib=0.025)
    plan = planned(store=store)
    assert plan.layout == planned().layout
    assert {name: plan.bytes_by_array[name] for name in ("a", "scales/a", "b", "scales/b")} == {
        "a": of_rows(8) + of_sequences(8),
        "scales/a": of_rows(4) + of_sequences(4),
        "b": of_rows(4) + of_sequences(4),
        "scales/b": of_rows(4) + of_sequences(4),
    }
    assert plan.host_bytes == {"shards": 3.5 * planned().host_bytes["shards"] / 2}


def test_eager_attention_keeps_its_scores() -> None:
    eager = planned(replace(SIZE, is_eager=True)).device_bytes["working"]
    assert eager - planned().device_bytes["working"] == 5 * 64 * 64 * 2 * (4 + 4)


def test_a_9b_site_takes_what_gemma_scope_says() -> None:
    # "about 100 TiB for 8B tokens at one 9B site", in float32
    tokens = Tokens(num_tokens=8 * 10**9, sequence_length=1024, batch_sequences=16)
    store = StoreConfig(dtype=FloatDtype.float32, shard_mib=16384)
    plan = plan_harvest(replace(SIZE, widths={"resid_post.20": 3584}), tokens, store, MACHINE)
    assert plan.bytes_by_array["resid_post.20"] / 2**40 == pytest.approx(104, abs=1)


@pytest.mark.parametrize(
    ("size", "store", "machine", "said"),
    [
        ({}, {}, {"disk_free_gb": 1e-4}, "disk: the store takes"),
        ({"parameters": 10**10}, {}, {"memory_gib": 30.0}, "memory: harvesting takes about 37 GiB"),
        ({}, {}, {"devices": 5}, "shards: 3 for 5 devices"),
    ],
)
def test_what_will_not_fit_is_said_in_a_line(
    size: dict, store: dict, machine: dict, said: str
) -> None:
    plan = planned(replace(SIZE, **size), replace(STORE, **store), **machine)
    assert len(plan.warnings) == 1 and plan.warnings[0].startswith(said)
    assert "\n" not in plan.warnings[0]


def test_files_beyond_what_training_reads_are_told() -> None:
    plan = plan_harvest(SIZE, TOKENS, STORE, MACHINE, max_shard_bytes=30_000)
    assert plan.file_bytes == 36 * 64 * 8 * 2
    assert len(plan.warnings) == 1 and "raise train.max_shard_gib" in plan.warnings[0]
