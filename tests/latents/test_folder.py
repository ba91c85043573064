"""What is written of latents is what is read of them."""

from pathlib import Path

import numpy as np
import pytest

from sae_dist.common.errors import UserError
from sae_dist.latents import (
    Explanation,
    Latents,
    read_explanations,
    rungs_with_latents,
    write_explanation,
)
from tests.latents.made_up import write_made_up


def test_a_latent_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "r"
    write_made_up(run, {"small": 24, "large": 48})
    assert rungs_with_latents(run) == ["large", "small"]
    latents = Latents(run, "small")
    tokens, values = latents.fired(13)
    ids = latents.token_ids_NS.ravel()[tokens]
    assert len(tokens) == latents.column("fired")[13] > 0 and not (ids % 15).any()
    example = latents.examples(13)[0]
    assert example.values[example.position - example.start] == latents.row("max", 13)
    assert values.max() == latents.row("max", 13)
    assert latents.beside()["large"][0].shape == (24, 3)
    assert np.array_equal(latents.column("fired", range(12, 24)), latents.column("fired")[12:])


def test_what_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "r"
    with pytest.raises(UserError, match="sae-dist latents run=r"):
        Latents(run, "small")
    write_made_up(run, {"small": 24})
    with pytest.raises(UserError, match="latent 24; expected one of small's 24"):
        Latents(run, "small").examples(24)


def test_an_explanation_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_explanations(tmp_path, "small") == {}
    said = Explanation(
        latent=7,
        text="multiples of nine",
        explainer="oracle",
        judge="oracle",
        scores={"detection": 1.0, "simulation": None},
        of={"coder": "f"},
    )
    write_explanation(tmp_path, "small", said)
    assert read_explanations(tmp_path, "small") == {7: said}
