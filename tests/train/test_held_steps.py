"""A step that found more than it had room for is taken again, and nobody can tell."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_dist.coders import Coder, kind_named
from sae_dist.coders.kinds import jumprelu
from sae_dist.kernels import host
from sae_dist.kernels.host import Room
from sae_dist.train import TrainingRun
from tests.processes import alone
from tests.train.ladders import make_store, rung, training_run

STEPS = 12


def run_of(store: Path, folder: Path, kind: str, **more: Any) -> tuple[TrainingRun, list[dict]]:
    run = training_run(alone(), store, folder, [rung(kind), rung("topk")], STEPS, **more)
    run.run()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return run, [line for line in lines if line["rung"]]


@pytest.mark.parametrize("kind", ["batchtopk", "jumprelu"])
def test_nothing_is_lost_and_nothing_counted_twice(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jumprelu, "_DENSE_SHARE", 1)  # it is searched, however many fire
    store = make_store(tmp_path / "store")
    expected, expected_lines = run_of(store, tmp_path / "expected", kind)

    find, calls, repeats = kind_named(kind).find, [], []

    def find_too_much(config: Any, coder: Coder, x_BD: Tensor) -> Any:
        found = find(config, coder, x_BD)
        coder.room("here")
        if coder.waits:
            repeats.append(len(calls))
            return found
        calls.append(None)
        if found is None or len(calls) not in (3, 4, 10, STEPS):
            return found
        code = replace(found[0], num_lost=torch.tensor(7))
        return code, found[1]

    monkeypatch.setattr(kind_named(kind), "find", find_too_much)
    monkeypatch.setattr(host, "is_at_hand", lambda x: False)
    found, found_lines = run_of(store, tmp_path / "found", kind)
    assert len(repeats) >= 4
    for name, tensor in expected._tensors().items():
        assert torch.equal(found._tensors()[name].full_tensor(), tensor.full_tensor()), name
    assert [rung.numbers() for rung in found.rungs] == [rung.numbers() for rung in expected.rungs]
    assert found_lines == expected_lines


def test_a_room_is_twice_what_was_found_and_seldom_changes() -> None:
    room = Room()
    assert room.num_found() is None
    room.tell(1000)
    assert room.size(1000) == 2048
    room.start_telling(torch.tensor(1500))
    assert room.num_found() == 1500 and room.size(1500) == 2048
    assert room.size(1700) == 4096 and room.size(600) == 4096 and room.size(100) == 256
