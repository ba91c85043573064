"""Each benchmark runs, at sizes that show nothing else; and what their clocks and sizes promise."""

import importlib
import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import (
    BENCHMARKS,
    checkpoint,
    curves,
    device,
    evaluate,
    latents,
    own,
    process,
    steps,
)
from benchmarks.__main__ import module_of, options_of, run
from benchmarks.device.parts import Parts
from benchmarks.figures import Figure, Results, read_results
from benchmarks.timing import Case, Clock, activations, matmul_for, threshold_for
from sae_dist.coders import kind_names
from tests import s3
from tests.processes import alone
from tests.test_imports import packages_beside

SLOW = {
    "quality",
    "quality_real",
    "dead_latents",
    "sinks",
    "live",
    "endtoend",
    "cheaper_search",
    "objects",
    "storage",
    "stream",
    "harvest",
    "curves",
    "pages",
    "startup",
}  # they take longer


def called_here(function: str, options: dict[str, Any], seconds: float, **_: Any) -> Any:
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)(**options)


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What processes of their own would do is done here, in a world of one."""
    for module in (steps, curves):
        monkeypatch.setattr(module, "call", called_here)
    for module in (own, checkpoint, evaluate, latents, device):
        monkeypatch.setattr(module, "start_world", lambda: nullcontext(alone()))
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in BENCHMARKS],
)
def test_a_benchmark_runs_and_its_figures_are_numbers(
    name: str, one_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []
    if name == "objects" and not s3.PYTHON:
        pytest.skip("no S3 server: run `make test-slow`")
    if name in ("quality", "quality_real", "dead_latents", "sinks", "storage"):
        from tests.benchmarks.stores import small_store

        given = ["--store", str(small_store(tmp_path / "store"))]
    results = read_results(run(name, ["--smoke", *given, "--to", str(tmp_path / "results")]))
    assert results.left_out == {} and len(results.figures) > 0
    for figure in results.figures:
        may_be_below = figure.unit == "%"  # what a step of milliseconds takes more
        assert math.isfinite(figure.value) and (figure.value >= 0 or may_be_below)
        assert figure.times_floor is None or figure.times_floor > 0
    assert all((tmp_path / "results" / drawing).is_file() for drawing in results.drawings)


def timed(
    seconds: float, parts: dict[str, float | None], monkeypatch: pytest.MonkeyPatch
) -> Results:
    """A stage of so many seconds, whose parts take some each, or fail."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(device, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def figures(name: str, takes: float | None) -> Iterator[Figure]:
        clock.now += takes or 1.0
        yield Figure(f"first of {name}", 1.0, "s")
        if takes is None:
            raise MemoryError("none left\nat all")
        yield Figure(f"second of {name}", 1.0, "s")

    def stage() -> Parts:
        for name, takes in parts.items():
            yield name, partial(figures, name, takes)

    results = Results("device", {}, {})
    for found in device.in_time("stage", stage(), seconds, 2 * seconds):
        results.add(found)
    return results


def test_a_part_that_fails_leaves_the_others_their_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    results = timed(100, {"a": 1.0, "b": None, "c": 1.0}, monkeypatch)
    names = ["first of a", "second of a", "first of b", "first of c", "second of c", "stage"]
    assert [figure.name for figure in results.figures] == names
    assert results.figures[-1].value == 3.0 and results.left_out == {"b": "MemoryError: none left"}


def test_what_no_time_was_left_for_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    results = timed(5, {"a": 1.0, "b": 7.0, "c": 1.0}, monkeypatch)
    assert [figure.name for figure in results.figures][-1] == "first of b"
    assert results.left_out == {"stage": "no time for what comes after first of b"}
    assert timed(0, {"a": 1.0}, monkeypatch).left_out == {"stage": "no time for all of it"}


HANGS = """
import time
from benchmarks import device
from benchmarks.device import rates
def hanging(*sizes):
    yield "it", lambda: time.sleep(1000)
rates.ceilings = hanging
from benchmarks.__main__ import run
run("device", ["--smoke", "--seconds", "20", "--to", sys.argv[1]])
"""


@pytest.mark.slow
def test_a_device_with_torch_and_transformers_alone_is_measured_and_no_hang_is_for_ever(
    tmp_path: Path,
) -> None:
    absent = packages_beside("torch", "triton", "safetensors", "transformers")
    head = f"import sys\nsys.modules.update(dict.fromkeys({absent}))\n"
    whole = "from benchmarks.__main__ import run\nrun('device', ['--smoke', '--to', sys.argv[1]])"
    for code, returned in ((whole, 0), (HANGS, 1)):
        to = tmp_path / str(returned)
        done = subprocess.run(
            [sys.executable, "-c", head + code, str(to)], capture_output=True, text=True
        )
        assert done.returncode == returned, done.stderr
    assert read_results(tmp_path / "0/device.json").left_out == {}
    left_out = read_results(tmp_path / "1/device.json").left_out
    assert left_out.pop("ceilings") == "the process ended within"
    assert len(left_out) == 7 and set(left_out.values()) == {"the process ended before"}
    assert done.stderr.startswith("Timeout (0:00:")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_smoke_sets_what_the_benchmark_takes(name: str) -> None:
    module = module_of(name)
    known = vars(options_of(module).parse_args([])).keys() | {"smoke"}
    flags = options_of(module).format_help()
    assert known and all(f"--{key.replace('_', '-')}" in flags for key in module.SMOKE)


def test_steps_stand_beside_each_peers_fastest_setting_and_not_the_naive_one() -> None:
    own = {"ms": 100.0, "floor_ms": 50.0, "l0": 32.0}
    cases = {"a, medium": 200.0, "a, highest": 300.0, "b, bf16": 250.0, "naive torch, medium": 10.0}
    figure = steps.figure("topk", own, {name: {"ms": ms} for name, ms in cases.items()})
    assert figure.others == {"a": 200.0, "b": 250.0} and figure.times_floor == 2.0
    assert figure.more["cases"].keys() == cases.keys()


@pytest.mark.parametrize("peer", [*steps.PEERS, steps.NAIVE])
def test_nobody_is_timed_at_what_they_lack(peer: str) -> None:
    assert steps.settings(peer, "topk") and not steps.settings(peer, "topk+auxk")
    assert bool(steps.settings(peer, "jumprelu")) == (peer != "sparsify")


@pytest.mark.parametrize("kind", kind_names())
def test_both_passes_of_evaluation_see_as_many_entries_as_fire(
    kind: str, one_process: None, tmp_path: Path
) -> None:
    (figure, _) = evaluate.run((kind,), 12_000, 256, 16, 1, tmp_path)
    fired = figure.more["active_entries"] / figure.more["tokens"]
    share = (evaluate.SEQUENCE - 1) / evaluate.SEQUENCE  # the first of each sequence is left out
    has_k_a_row = kind in ("topk", "abstopk", "hierarchical_topk")
    assert fired / share == evaluate.K if has_k_a_row else 20 < fired < 70


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("float32", "highest"), ("bfloat16", "medium"), ("bf16", "highest"), ("medium", "medium")],
)
def test_settings_name_a_matmul_precision(setting: str, expected: str) -> None:
    assert matmul_for(setting) == expected


def test_a_clock_takes_two_to_ten_steps_after_two_of_warm_up() -> None:
    clock = Clock([torch.zeros(1), torch.ones(1)], seconds=0.0)
    assert [int(x) for x in clock] == [0, 1, 0, 1] and clock.num_steps == 2
    assert len(list(Clock([torch.zeros(1)], seconds=1e9))) == 12
    assert Clock([], 0.0, ticks=[0.0, 50.0, 90.0, 91.0, 93.0, 96.0]).ms == 2000.0
    clock = Clock([torch.zeros(1)], seconds=0.0)
    next(iter(clock))
    with pytest.raises(RuntimeError, match="steps were taken"):
        _ = clock.ms


def test_activations_are_the_same_each_time_and_of_mean_square_one() -> None:
    first, second = activations(16, 64), activations(16, 64)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert float(torch.cat(first).pow(2).sum(1).mean()) == pytest.approx(1.0, rel=1e-5)
    assert Case("jumprelu", 64, 16, 32, "highest+sparse").is_sparse


def test_a_threshold_lets_as_many_through_as_asked() -> None:
    z_BF = torch.randn(32, 100, generator=torch.Generator().manual_seed(0))
    assert int((z_BF > threshold_for(z_BF, 5)).sum()) == 5 * 32


def test_what_a_process_returns_and_why_it_returns_nothing() -> None:
    missing = "TypeError: loads() missing 1 required positional argument: 's'"
    assert process.call("json:loads", {}, 60) == missing
    found = process.call("json:loads", {"s": '{"a": 2}'}, 60)
    assert found == {"a": 2}
    assert process.call("time:sleep", {"no": 1}, 0.01) == "takes more than 0.01 s"
    missing = "[Errno 2] No such file or directory: '/nowhere/python'"
    assert process.call("json:loads", {}, 60, "/nowhere/python") == missing
