"""All 25 bad inputs and faults, each with the line that the user sees.

`python -m tests.reliability.test_faults` prints them as a table.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.reliability import run_faults as run
from tests.reliability import store_faults as store
from tests.reliability.bench import Bench, Outcome


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault, a function that builds it, and what must stand in the line of each outcome.

    `goes_on`: it is warned of, and nothing stops.
    """

    name: str
    build: Callable[[Bench], list[Outcome]]
    said: list[tuple[str, ...]]
    goes_on: bool = False


SHARD = "rows/activations/in/c.2.0"
ALTERED = ("faults found",)  # and which file, above it
FAULTS = {
    1: Fault(
        "shard deleted", store.damaged_shard(Path.unlink), [(), (SHARD, "No such file", "; ")]
    ),
    2: Fault("shard truncated", store.damaged_shard(store.halve), [(), (SHARD, "too short", "; ")]),
    3: Fault(
        "shard of length zero", store.damaged_shard(store.empty), [(), (SHARD, "too short", "; ")]
    ),
    4: Fault("one bit flipped", store.flipped_bit, [(), (SHARD, "chunk", "crc32c", "repair=true")]),
    5: Fault("two shards swapped", store.swapped, [("faults found", ": 2")]),
    6: Fault("leftover .partial", store.leftover, [(".partial",), ()], goes_on=True),
    7: Fault("harvest rank killed", store.harvest_killed, [()], goes_on=True),
    8: Fault(
        "two jobs on one store",
        store.two_jobs,
        [("acts/MANIFEST.json", "dtype=", "bfloat16", "expected dtype=", "same settings")],
    ),
    9: Fault(
        "disk full",
        store.disk_full,
        [("No space left", folder, "free", "again") for folder in ("acts/", "runs/r")],
    ),
    10: Fault(
        "unsealed store", store.unsealed, [("unsealed store", "store", "MANIFEST.json", "finish")]
    ),
    11: Fault("shape of 2**62", store.metadata({"shape": [2**62]}), [ALTERED]),
    12: Fault(
        "chunk size 0 or negative",
        store.metadata(
            *(
                {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [size, 16]}}}
                for size in (0, -1)
            )
        ),
        2 * [ALTERED],
    ),
    13: Fault(
        "zstd bomb",
        store.metadata({"codecs": [{"name": "zstd", "configuration": {"level": 1}}]}),
        [ALTERED],
    ),
    14: Fault("zarr.json nested or no JSON", store.nested_or_no_json, 2 * [ALTERED]),
    15: Fault("coder of another width", run.other_width, [("width 16", "{'in': 24}", "store=")]),
    16: Fault("wrong dtype", store.metadata({"data_type": "float64"}), [ALTERED]),
    17: Fault(
        "NaN activations",
        run.not_finite,
        [("unit", "resid_post.1", "sequence", "NaN or infinity")],
    ),
    18: Fault("fewer rows than a batch", run.small_store, [("4096", "tokens")]),
    19: Fault(
        "seed, batch or manifest changed",
        run.changed,
        [
            ("seed", "0", "1", "run=NAME"),
            ("batch_tokens", "64", "32", "run=NAME"),
            ("source", "run=NAME"),
        ],
    ),
    20: Fault(
        "crash before CHECKPOINT.json", run.unfinished_save, [("step-10.tmp-0123",)], goes_on=True
    ),
    21: Fault(
        "`latest` leads nowhere", run.wrong_latest, [("latest", "step-10")] * 4, goes_on=True
    ),
    22: Fault(
        "malicious .metadata or .pt",
        run.malicious,
        [("step-10/.metadata", "remove"), ("step-10/.metadata",), ("coder.safetensors",)],
    ),
    23: Fault(
        "run's name leads out",
        run.names_that_lead_out,
        [("../../x", "letters"), ("outside/x", "letters"), ("a", "b"), ("runs/link", "outside")],
    ),
    24: Fault(
        "_target_ or unknown key",
        run.unknown_keys,
        [("_target_",), ("_target_",), ("num_latents", "did you mean coder.num_latents?")],
    ),
    25: Fault("tokens and keys", run.secrets, [("text.path", "; ")]),
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    yield Bench(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("number", FAULTS)
def test_a_fault_ends_in_one_line_and_loses_nothing(bench: Bench, number: int) -> None:
    fault = FAULTS[number]
    outcomes = fault.build(bench)
    for outcome, parts in zip(outcomes, fault.said, strict=True):
        assert outcome.status == (0 if fault.goes_on else 2), outcome.said
        assert "Traceback" not in outcome.said, outcome.said
        assert outcome.lines or not parts, outcome.said
        line = "\n".join(outcome.lines)
        assert [part for part in parts if part not in line] == [], outcome.said


def table() -> Iterator[str]:
    """The faults as rows of Markdown."""
    yield "| # | fault | what the user sees |"
    yield "|---|---|---|"
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        for number, fault in FAULTS.items():
            lines = (line for outcome in fault.build(bench) for line in outcome.lines[:1])
            shown = "<br>".join(f"`{line.replace(f'{folder}/', '')}`" for line in lines)
            star = "*" if fault.goes_on else ""
            yield f"| {number}{star} | {fault.name} | {shown} |"


if __name__ == "__main__":
    for row in table():
        print(row, flush=True)
