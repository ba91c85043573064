"""Which cases are timed, how one becomes a command line, and how long its steps are timed for."""

import sys
from pathlib import Path

import pytest
import torch

from benchmarks import measure
from benchmarks.cases import NAIVE, ON_CPU, ON_GPU, OURS, Case, own_cases, peer_cases, wide_cases
from benchmarks.measure import Clock, activations, matmul_for, threshold_for
from benchmarks.run import run_json


def test_ours_has_every_kind_width_and_precision() -> None:
    cases = [case for case in own_cases(ON_GPU) if case.program == OURS]
    assert len(set(cases)) == len(cases) == 4 * 3 * 2
    assert {case.setting for case in cases} == {"float32", "bfloat16"}
    assert {case.d_in for case in cases} == {2304}


def test_peers_are_compared_in_the_sizes_of_ours() -> None:
    for sizes, is_cuda in ((ON_CPU, False), (ON_GPU, True)):
        ours = {(c.num_latents, c.d_in, c.batch) for c in own_cases(sizes)}
        peers = peer_cases(sizes, is_cuda=is_cuda)
        assert {(c.num_latents, c.d_in, c.batch) for c in peers} <= ours
        assert len(set(peers)) == len(peers)


def test_at_other_widths_a_peer_runs_in_its_fastest_setting_of_the_first() -> None:
    def result(program: str, setting: str, ms: float, width: int = 16_384) -> dict:
        shape = {"kind": "topk", "num_latents": width, "d_in": 2304, "batch": 4096}
        return {"program": program, "setting": setting, "ms": ms} | shape

    results = [
        result("SAELens", "bf16", 3.0),
        result("SAELens", "medium", 2.0),
        result("SAELens", "highest", 1.0, width=131_072),
        result(OURS, "float32", 0.5),
        result(NAIVE, "medium", 0.5),
    ]
    wide = wide_cases(ON_GPU, results)
    assert [(c.program, c.num_latents, c.setting) for c in wide] == [
        ("SAELens", 131_072, "medium"),
        ("SAELens", 1_048_576, "medium"),
    ]


def test_a_case_is_a_command_line_that_says_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(OURS, "jumprelu", 64, 16, 32, "bfloat16")
    module, *words = case.arguments[1:]
    assert module == "benchmarks.steps"
    monkeypatch.setattr(sys, "argv", ["steps", *words, "--seconds", "0"])
    before = torch.get_float32_matmul_precision()
    options = measure.arguments()
    torch.set_float32_matmul_precision(before)
    assert (options.kind, options.num_latents, options.setting) == ("jumprelu", 64, "bfloat16")
    assert options.clock.batches[0].shape == (32, 16)
    assert options.l0 == measure.L0


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("float32", "highest"), ("bfloat16", "medium"), ("bf16", "highest"), ("medium", "medium")],
)
def test_settings_name_a_matmul_precision(setting: str, expected: str) -> None:
    assert matmul_for(setting) == expected


def test_a_clock_takes_two_steps_after_two_of_warm_up_at_least() -> None:
    clock = Clock([torch.zeros(1), torch.ones(1)], seconds=0.0)
    assert [int(x) for x in clock] == [0, 1, 0, 1]
    assert clock.num_steps == 2


def test_a_clock_takes_ten_steps_at_most() -> None:
    clock = Clock([torch.zeros(1)], seconds=1e9)
    assert len(list(clock)) == 12
    assert clock.num_steps == 10


def test_a_clock_measures_the_median_step_after_the_warm_up() -> None:
    clock = Clock([], seconds=0.0, ticks=[0.0, 50.0, 90.0, 91.0, 93.0, 96.0])
    assert clock.ms == 2000.0


def test_a_clock_that_was_left_early_gives_no_figure() -> None:
    clock = Clock([torch.zeros(1)], seconds=0.0)
    next(iter(clock))
    with pytest.raises(RuntimeError, match="steps were taken"):
        _ = clock.ms


def test_activations_are_the_same_each_time_and_of_mean_square_one() -> None:
    first, second = activations(16, 64), activations(16, 64)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert float(torch.cat(first).pow(2).sum(1).mean()) == pytest.approx(1.0, rel=1e-5)


def test_a_threshold_lets_as_many_through_as_asked() -> None:
    z_BF = torch.randn(32, 100, generator=torch.Generator().manual_seed(0))
    assert int((z_BF > threshold_for(z_BF, 5)).sum()) == 5 * 32


def test_the_last_line_of_json_counts(tmp_path: Path) -> None:
    def script(text: str) -> list[str]:
        path = tmp_path / "script.py"
        path.write_text(text)
        return [sys.executable, str(path)]

    said = script("print('so'); print('{\"a\": 1}'); print('{\"a\": 2}')")
    assert run_json(said, 60) == {"a": 2}
    assert run_json(script("raise ValueError('no room')"), 60) == "ValueError: no room"
    assert run_json(script("pass"), 60) == "exit status 0"
    assert (
        run_json(["/nowhere/python"], 60)
        == "[Errno 2] No such file or directory: '/nowhere/python'"
    )
    assert run_json(script("import time; time.sleep(60)"), 0.1) == "takes more than 0.1 s"
