"""`sae-dist latents`: of stores, texts beside a training, fresh text, and what never had a text."""

from pathlib import Path

import numpy as np
import pytest

from sae_dist.apps import latents, train
from sae_dist.latents import Latents, rungs_with_latents
from tests.apps.test_commands import SETTINGS as OF_STORES
from tests.apps.test_commands import STREAM, Command, harvested_from, run  # noqa: F401 - a fixture
from tests.apps.test_live import LIVE, SETTINGS, home  # noqa: F401 - a fixture
from tests.train.ladders import make_store

FEW = ("strongest=2", "per_quantile=1", "neighbours=2", "part_tokens=32", "batch_tokens=32")


def test_held_out_and_fresh_text_are_read_by_a_live_run_s_language_model(
    run: Command,  # noqa: F811
    home: Path,  # noqa: F811
    capsys: pytest.CaptureFixture,
) -> None:
    run(train.main, *LIVE, "run=r", *SETTINGS, "tokens=2K")
    run(latents.main, "run=r", *FEW)
    (rung,) = rungs_with_latents(home / "runs/r")
    held_out = Latents(home / "runs/r", rung)
    assert held_out.about.source["store"] == "live" and held_out.about.lm["name"] == "./lm"
    assert held_out.has("top_tokens") and 1 < held_out.rung.l0 <= 4
    assert len(held_out.token_ids_NS) == held_out.about.num_sequences > 8
    fresh = ("text.path=./text", "text.sequence_length=8", "max_sequences=10")
    capsys.readouterr()
    run(latents.main, "run=r", *FEW, *fresh)
    assert "of other sequences" in capsys.readouterr().err
    found = Latents(home / "runs/r", rung)
    assert found.about.num_sequences == 10 and found.about.source["text"]["path"] == "./text"
    assert np.array_equal(found.column("nearest"), held_out.column("nearest"))
    assert not np.array_equal(found.token_ids_NS[4:8], held_out.token_ids_NS[4:8])
    assert np.array_equal(found.token_ids_NS[:4], held_out.token_ids_NS[:4])  # the first unit
    for refused, said in (
        (("max_sequences=null", *fresh[:2]), "max_sequences=null beside text.path=./text"),
        (("rungs=[x]",), "expected rungs of runs/r"),
        (("neighbours=-1",), "neighbours=-1; expected at least 0"),
    ):
        with pytest.raises(SystemExit, match="2"):
            run(latents.main, "run=r", *refused)
        assert said in capsys.readouterr().err


def test_a_store_without_a_language_model_gives_no_logits(
    run: Command,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    make_store(tmp_path / "store", num_tokens=2048)
    run(train.main, "store=store", "run=r", "site=in", *OF_STORES, *STREAM)
    run(latents.main, "run=r", *FEW)
    (rung,) = rungs_with_latents(tmp_path / "runs/r")
    found = Latents(tmp_path / "runs/r", rung)
    assert found.column("fired").sum() == 4 * found.about.num_tokens
    assert found.about.lm is None and not found.has("top_tokens")
    with pytest.raises(SystemExit, match="2"):
        run(latents.main, "run=r", "text.path=stdlib")
    assert "found no language model that run=r read" in capsys.readouterr().err
