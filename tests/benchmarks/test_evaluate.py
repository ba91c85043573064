from pathlib import Path

import pytest

from benchmarks import evaluate
from sae_dist.parallel import make_mesh
from tests.processes import alone


@pytest.mark.parametrize("kind", ["jumprelu", "topk", "batchtopk"])
def test_both_passes_see_the_same_entries(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "D", 16)
    source = evaluate.make_source(tmp_path / "store", num_tokens=12_000)
    coder = evaluate.make_coder(kind, num_latents=256)
    found = evaluate.compared(source, coder, make_mesh(alone(), 1, {}), rounds=1)
    num_tokens = source.num_held_out * (evaluate.SEQUENCE - 1)
    assert 6_000 < num_tokens < 18_000
    fired = found["active_entries"] / num_tokens
    assert fired == evaluate.K if kind == "topk" else 20 < fired < 70
    assert found["ratio_seconds"] > 0 and found["processor_seconds"]["bare"] > 0
