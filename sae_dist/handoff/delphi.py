"""delphi 0.1: its cache of latents, from which it explains and scores whatever coder they are of.

FOLDER/latents/RUNG/START_END.safetensors   a range of latents, END among them:
    `locations` [M, 3] (sequence, position, latent - START), `activations` [M], `tokens` [N, S]
FOLDER/latents/RUNG/config.json
FOLDER/log/hookpoint_firing_counts.pt       {RUNG: int64 [F]}

LatentDataset(raw_dir=FOLDER/latents, modules=[RUNG], tokenizer=…, …)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sae_dist.common.files import atomic_path, write_json
from sae_dist.handoff.handoff import Handoff, Texts, written_anew
from sae_dist.latents import Latents
from sae_dist.latents.folder import write_tensors

_SETTINGS = "config.json"
_LEAST = 1e-5  # what delphi takes for firing
_MOST_HALF = float(np.finfo(np.float16).max)


class Delphi(Handoff):
    """`latents/RUNG/` with one file a range, and how often each latent fires."""

    name = "delphi"
    title = "delphi"
    needs_texts = False

    def write(self, folder: Path, run: Path, rungs: Sequence[str], texts: Texts | None) -> None:
        """In memory: a range's activations twice, and all tokens."""
        import torch

        counts = {}
        for name in rungs:
            latents = Latents(run, name)
            with written_anew(folder / "latents" / name, _SETTINGS) as temporary:
                for own in latents.ranges():
                    split = temporary / f"{own.start}_{own.stop - 1}.safetensors"
                    write_tensors(split, _split(latents, own))
                write_json(temporary / _SETTINGS, _config(latents))
            counts[name] = torch.from_numpy(latents.column("fired"))
        with atomic_path(folder / "log" / "hookpoint_firing_counts.pt") as path:
            torch.save(counts, path)


def _split(latents: Latents, own: range) -> dict[str, np.ndarray]:
    """The arrays of one range, in 16 bits where they fit."""
    offsets, tokens, values = latents.firings(own)
    latent = np.repeat(np.arange(len(own), dtype=np.int32), np.diff(offsets))
    fires = np.abs(values) > _LEAST
    if not fires.all():
        tokens, values, latent = tokens[fires], values[fires], latent[fires]
    about = latents.about
    is_small = max(len(own), about.num_sequences, about.sequence_length) <= 1 << 16
    locations = np.empty((len(tokens), 3), np.uint16 if is_small else np.uint32)
    np.divmod(tokens, about.sequence_length, locations[:, 0], locations[:, 1], casting="unsafe")
    locations[:, 2] = latent
    is_half = np.abs(values).max(initial=0) <= _MOST_HALF
    return {
        "locations": locations,
        "activations": values.astype(np.float16) if is_half else values,
        "tokens": latents.token_ids_NS,
    }


def _config(latents: Latents) -> dict[str, Any]:
    """Its `CacheConfig`, and the language model, whose tokenizer it loads if it is given none."""
    about = latents.about
    text = about.source.get("text") or {}
    return {
        "model_name": (about.lm or {}).get("name", ""),
        "dataset_repo": text.get("path") or "",
        "dataset_split": text.get("split") or "",
        "dataset_name": text.get("subset") or "",
        "dataset_column": text.get("column") or "",
        "batch_size": 1,
        "cache_ctx_len": about.sequence_length,
        "n_tokens": about.num_sequences * about.sequence_length,
        "n_splits": len(latents.rung.edges) - 1,
    }
