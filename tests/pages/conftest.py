"""Pages of latents that never were, for all tests that only look at them."""

from pathlib import Path

import pytest

from sae_dist.latents import Explanation, write_explanation
from sae_dist.pages import write
from tests.latents.made_up import VOCABULARY, write_made_up

RUNGS = {"topk-64": 64, "topk-128": 128, "topk-256": 256}
HOSTILE = {
    10: b"\n",
    11: "é".encode()[:1],
    12: "é".encode()[1:],
    13: b"</script><img src=x onerror=alert(1)>",
    14: "\u202eevil".encode(),
    15: b"  ",
}
TEXTS = [HOSTILE.get(token, f" w{token}".encode()) for token in range(VOCABULARY)]


@pytest.fixture(scope="session")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose latents have pages, and every third of the least rung's an explanation."""
    run = tmp_path_factory.mktemp("runs") / "a_run"
    write_made_up(run, RUNGS, lm={"name": "never"})
    for latent in range(0, RUNGS["topk-64"], 3):
        explanation = Explanation(
            latent=latent,
            text=f"numbers that {latent + 2} divides <b>",
            explainer="a person",
            judge="an oracle",
            scores={"detection": latent / 100, "fuzzing": None if latent % 2 else 0.5},
            of={},
        )
        write_explanation(run, "topk-64", explanation)
    write(run, TEXTS)
    return run
