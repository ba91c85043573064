"""The latents of a coder that never was: latent f fires where a token's id divides by f + 2."""

from itertools import pairwise
from pathlib import Path

import numpy as np

from sae_dist.latents.folder import (
    ABOUT,
    FOLDER,
    TOKENS,
    TRAINABLE,
    VERSION,
    About,
    RungAbout,
    range_file,
    write_about,
    write_tensors,
)

VOCABULARY = 500


def write_made_up(
    run: Path,
    rungs: dict[str, int],
    *,
    num_sequences: int = 40,
    length: int = 64,
    window: int = 24,
    num_neighbours: int = 5,
    lm: dict | None = None,
) -> None:
    """Write `runs/r/latents` of rungs with so many latents each, by name."""
    rng = np.random.default_rng(0)
    ids_NS = rng.integers(3, VOCABULARY, (num_sequences, length)).astype(np.int32)
    ids_NS[:, 0] = 0
    trainable_NS = ids_NS > 2
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / TOKENS, ids_NS)
    np.save(folder / TRAINABLE, trainable_NS)
    write_about(
        folder / ABOUT,
        About(
            version=VERSION,
            run=run.name,
            source={"store": "stores/made_up"},
            lm=lm,
            num_sequences=num_sequences,
            sequence_length=length,
            num_tokens=int(trainable_NS.sum()),
        ),
    )
    for rung, num_latents in rungs.items():
        sizes = num_latents, window, num_neighbours
        _write_rung(folder, rung, *sizes, ids_NS, trainable_NS, rungs)


def _write_rung(
    folder, rung, num_latents, window, num_neighbours, ids_NS, trainable_NS, rungs
) -> None:
    length = ids_NS.shape[1]
    flat, is_trained = ids_NS.ravel(), trainable_NS.ravel()
    edges = [0, num_latents // 2, num_latents]
    firing = 0
    for start, stop in pairwise(edges):
        columns, tokens, values, offsets = [], [], [], [0]
        for latent in range(start, stop):
            at = np.flatnonzero((flat % (latent + 2) == 0) & is_trained)
            value = ((flat[at] * 7 + latent) % 50 / 5 + 0.1).astype(np.float32)
            tokens.append(at)
            values.append(value)
            offsets.append(offsets[-1] + len(at))
            columns.append(_columns(at, value, length, window, latent, num_latents, len(flat)))
            for name in ("nearest", "cosine", "cofiring", "together"):
                columns[-1][name] = columns[-1][name][:num_neighbours]
        firing += offsets[-1]
        write_tensors(
            folder / rung / "fired" / range_file(start, stop),
            {
                "offsets": np.array(offsets, np.int64),
                "tokens": np.concatenate(tokens).astype(np.int64),
                "values": np.concatenate(values),
            },
        )
        write_tensors(
            folder / rung / range_file(start, stop),
            {name: np.stack([c[name] for c in columns]) for name in columns[0]},
        )
    for other, num_others in rungs.items():
        if other != rung:
            nearest = np.arange(num_latents)[:, None] % num_others + np.zeros((1, 3), int)
            cosine = np.broadcast_to(np.float32([0.9, 0.5, 0.2]), (num_latents, 3))
            write_tensors(
                folder / rung / "beside" / f"{other}.safetensors",
                {"nearest": nearest.astype(np.int32), "cosine": cosine},
            )
    write_about(
        folder / rung / ABOUT,
        RungAbout(
            version=VERSION,
            rung=rung,
            coder=f"fingerprint of {rung}",
            kind="topk",
            form="autoencoder",
            site="resid_post.1",
            target="resid_post.1",
            num_latents=num_latents,
            d_in=16,
            d_out=16,
            l0=firing / int(is_trained.sum()),
            window=window,
            num_quantiles=4,
            edges=edges,
        ),
    )


def _columns(at, value, length, window, latent, num_latents, num_tokens) -> dict[str, np.ndarray]:
    dense = np.zeros(num_tokens, np.float32)
    dense[at] = value
    ranked = at[np.argsort(-value, kind="stable")]
    examples = np.full(12, -1, np.int64)
    groups, starts = np.zeros(12, np.int8), np.full(12, -1, np.int64)
    windows = np.zeros((12, window), np.float32)
    chosen = [(0, t) for t in ranked[:4]]
    for q in range(4):
        part = ranked[len(ranked) * q // 4 : len(ranked) * (q + 1) // 4]
        chosen += [(q + 1, t) for t in part[:2]]
    for i, (group, token) in enumerate(chosen):
        sequence, position = divmod(int(token), length)
        first = sequence * length + max(0, min(position - 3 * window // 4, length - window))
        examples[i], groups[i], starts[i] = token, group, first
        windows[i] = dense[first : first + window]
    most = np.float32(value.max() if len(value) else 0)
    ids = (np.arange(10) * 13 + latent) % VOCABULARY
    logits = np.linspace(2, 1, 10, dtype=np.float32)
    near = (latent + 1 + np.arange(5)) % num_latents
    return {
        "fired": np.int64(len(at)),
        "sequences": np.int64(len(set(at // length))),
        "max": most,
        "sum": np.float64(value.sum()),
        "histogram": np.histogram(value, 40, (0, float(most) or 1.0))[0].astype(np.int64),
        "examples": examples,
        "groups": groups,
        "starts": starts,
        "values": windows,
        "top_tokens": ids.astype(np.int32),
        "top_logits": logits,
        "bottom_tokens": ids[::-1].astype(np.int32),
        "bottom_logits": -logits,
        "logits_histogram": np.arange(40, dtype=np.int64),
        "logits_range": np.float32([-2, 2]),
        "nearest": near.astype(np.int32),
        "cosine": np.linspace(0.8, 0.1, 5, dtype=np.float32),
        "cofiring": near[::-1].astype(np.int32),
        "together": np.linspace(0.5, 0.1, 5, dtype=np.float32),
    }
