"""SAEDashboard 0.8: what its runner for Neuronpedia writes.

FOLDER/RUNG/batch-N.json            128 latents each
FOLDER/RUNG/skipped_indexes.json    those that never fire, which are in no batch
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from sae_dist.common.files import write_atomic
from sae_dist.handoff.dashboard import features
from sae_dist.handoff.handoff import Handoff, Texts, layer_and_hook, written_anew
from sae_dist.latents import Latents

PER_BATCH = 128
_SKIPPED = "skipped_indexes.json"
_T = TypeVar("_T")


class SAEDashboard(Handoff):
    """`batch-N.json` and `skipped_indexes.json`."""

    name = "saedashboard"
    title = "SAEDashboard"
    is_by_layer = True

    def write(self, folder: Path, run: Path, rungs: Sequence[str], texts: Texts | None) -> None:
        assert texts is not None
        for name in rungs:
            latents = Latents(run, name)
            with written_anew(folder / name, _SKIPPED) as temporary:
                _write_rung(temporary, latents, texts)


def _write_rung(folder: Path, latents: Latents, texts: Texts) -> None:
    layer, _ = layer_and_hook(latents, SAEDashboard.title)
    fired_F = latents.column("fired")
    about: dict[str, Any] = {
        "model_id": (latents.about.lm or {}).get("name", ""),
        "layer": layer,
        "sae_set": latents.about.run,
    }
    firing = (one for one in features(latents, texts) if fired_F[one["feature_index"]])
    for number, several in enumerate(batches(firing, PER_BATCH)):
        batch = {**about, "sae_id_suffix": latents.rung.rung, "features": several}
        write_atomic(folder / f"batch-{number}.json", msgspec.json.encode(batch))
    skipped = {
        **about,
        "layer": str(layer),
        "log_sparsity": None,
        "skipped_indexes": (fired_F == 0).nonzero()[0].tolist(),
    }
    write_atomic(folder / _SKIPPED, msgspec.json.encode(skipped))


def batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """The same in lists of `size`, the last one shorter."""
    iterator = iter(items)
    while several := list(islice(iterator, size)):
        yield several
