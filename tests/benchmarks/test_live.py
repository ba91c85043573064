from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import live
from tests.processes import alone


@pytest.mark.slow
def test_a_round_harvests_trains_and_trains_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_WIDTH", 16)
    monkeypatch.setattr(live, "STORE", replace(live.STORE, chunk_mib=0.01, shard_mib=0.1))
    num_tokens = 16 * live.BATCH
    lm = live.small_lm(tmp_path / "lm")
    found = live.seconds(alone(), lm, tmp_path, [32], num_tokens)
    assert set(found) == {"harvest", "train", "live"} and min(found.values()) > 0
    for run in ("stored", "live"):
        assert (tmp_path / run / "coders/rung-0/coder.safetensors").is_file()
    figures = live._figures([found], num_tokens)
    assert figures["live_over_train_again"] == round(found["live"] / found["train"], 2)
