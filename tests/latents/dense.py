"""The columns of a tiny coder's latents, from its dense code, one latent after the other."""

import numpy as np
import torch

from sae_dist.coders import Coder
from sae_dist.latents.config import WatchConfig
from sae_dist.stream import HeldOutPart


def dense_code(coder: Coder, source, site: str) -> tuple[np.ndarray, np.ndarray]:
    """Activations [N·S, F], 0 at tokens that no coder is given, and which tokens are."""
    batches = list(source.held_out([site], HeldOutPart(batch_sequences=4)))
    x_NSD = torch.cat([batch.acts[site] for batch in batches])
    trainable_T = torch.cat([batch.trainable for batch in batches]).flatten()
    acts_TF = torch.zeros(len(trainable_T), coder.config.num_latents)
    acts_TF[trainable_T] = coder.encode(x_NSD.flatten(0, 1)[trainable_T].float())
    return acts_TF.numpy(), trainable_T.numpy()


def columns(acts_T: np.ndarray, length: int, config: WatchConfig, bins: int) -> dict:
    """One latent's own columns."""
    size_NS, tokens = np.abs(acts_T).reshape(-1, length), np.flatnonzero(acts_T)
    fires_N = size_NS.any(1)
    most = size_NS.max()
    peaks = [(-size_NS[n].max(), n * length + size_NS[n].argmax()) for n in fires_N.nonzero()[0]]
    ranked = [token for _, token in sorted(peaks)]
    chosen = [(0, token) for token in ranked[: config.strongest]]
    chosen += [(0, -1)] * (config.strongest - len(chosen))
    below = ranked[config.strongest :]
    for q in range(config.quantiles):
        cuts = [len(below) * p // config.quantiles for p in (q, q + 1)]
        own = below[cuts[0] : cuts[1]]
        taken = min(len(own), config.per_quantile)
        picked = [(q + 1, own[(2 * i + 1) * len(own) // (2 * taken)]) for i in range(taken)]
        chosen += picked + [(q + 1, -1)] * (config.per_quantile - taken)
    window = min(config.window, length)
    starts, values = [], []
    for _, token in chosen:
        n, position = divmod(token, length)
        first = n * length + min(max(position - 3 * window // 4, 0), length - window)
        starts.append(first if token >= 0 else -1)
        values.append(acts_T[first : first + window] if token >= 0 else np.zeros(window))
    sizes = np.abs(acts_T[tokens])
    places = (sizes / np.float32(most) * bins).astype(int).clip(max=bins - 1) if most else tokens
    return {
        "fired": len(tokens),
        "sequences": fires_N.sum(),
        "max": most,
        "sum": sizes.astype(np.float64).sum(),
        "histogram": np.bincount(places, minlength=bins),
        "examples": [token for _, token in chosen],
        "groups": [group for group, _ in chosen],
        "starts": starts,
        "values": np.array(values),
    }


def correlations(acts_TF: np.ndarray, trainable_T: np.ndarray) -> np.ndarray:
    """φ of firing of all pairs [F, F]; 0 on the diagonal, and where one never or always fires."""
    fires_TF = (acts_TF[trainable_T] != 0).astype(float)
    with np.errstate(all="ignore"):
        phi_FF = np.nan_to_num(np.corrcoef(fires_TF.T))
    np.fill_diagonal(phi_FF, 0)
    return phi_FF
