"""Which latents fire on the same tokens."""

import numpy as np
import torch
from torch import Tensor

from sae_dist.latents.columns import Columns
from sae_dist.latents.parts import Entries, Parts

_SEEN = 4096  # latents that fire with one, as often as they do, on about so many it is looked at
_BLOCK = 256  # latents at once


def cofiring(
    entries: Entries, latents: range, parts: Parts, fired_F: Tensor, num_tokens: int, num: int
) -> Columns:
    """`cofiring` and `together` (`folder.COLUMNS`), by the correlation of firing.

        φ = (n₁₁ N - n₁ n₂) / √(n₁ (N - n₁) n₂ (N - n₂))

    of N tokens, on n₁ and n₂ of which two latents fire and on n₁₁ both. n₁₁ is counted on up to
    4,096 / L0 tokens on which the latent fires, evenly spaced, and multiplied up where it fires on
    more: exact for a rare latent, an estimate for a frequent one.

    Args:
        latents: those of the entries.
        fired_F: on how many tokens each of the rung's fires.
        num: how many are kept of each.
    """
    if not num:
        none_nK = fired_F.new_zeros(len(latents), 0)
        return {"cofiring": none_nK.int(), "together": none_nK.float()}
    most = max(1, int(_SEEN * num_tokens / max(int(fired_F.sum()), 1)))
    found = []
    for first in range(0, len(latents), _BLOCK):
        own = range(first, min(first + _BLOCK, len(latents)))
        taken_n, tokens_m = _sample(entries, own, most)
        together = _together(parts, tokens_m, taken_n)
        numbers_n = latents.start + torch.arange(own.start, own.stop, device=fired_F.device)
        found.append(_most_correlated(together, numbers_n, taken_n, fired_F, num_tokens, num))
    cofiring_nK, phi_nK = (torch.cat(columns) for columns in zip(*found, strict=True))
    return {"cofiring": cofiring_nK.int(), "together": phi_nK.float()}


def _sample(entries: Entries, own: range, most: int) -> tuple[Tensor, Tensor]:
    """Of some latents up to `most` tokens on which each fires: how many [n], and which [m]."""
    starts_n = entries.offsets[own.start : own.stop]
    counts_n = entries.counts_n[own.start : own.stop]
    taken_n = counts_n.clamp_max(most)
    step_1S = torch.arange(int(taken_n.max()) if len(own) else 0, device=starts_n.device)[None]
    at_nS = (2 * step_1S + 1) * counts_n[:, None] // (2 * taken_n[:, None]).clamp_min(1)
    return taken_n, entries.tokens_M[(starts_n[:, None] + at_nS)[step_1S < taken_n[:, None]]]


def _together(parts: Parts, tokens_m: Tensor, taken_n: Tensor) -> Tensor:
    """The latents that fire on the tokens of each latent's sample, int32 [n, W]; F where fewer."""
    order_m = tokens_m.cpu().numpy().argsort(kind="stable")
    owner_m = np.repeat(np.arange(len(taken_n)), taken_n.cpu().numpy())[order_m]
    owners, others = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
    for which, counts, latents in parts.codes(tokens_m.cpu().numpy()[order_m]):
        owners.append(np.repeat(owner_m[which], counts))
        others.append(latents)
    owner_P, other_P = np.concatenate(owners), np.concatenate(others)
    order_P = owner_P.argsort(kind="stable")
    counts_n = np.bincount(owner_P, minlength=len(taken_n))
    table_nW = np.full((len(taken_n), max(1, counts_n.max(initial=0))), parts.num_latents, np.int32)
    table_nW[np.arange(table_nW.shape[1]) < counts_n[:, None]] = other_P[order_P]
    table_nW.sort(axis=1)
    return torch.from_numpy(table_nW).to(tokens_m.device)


def _most_correlated(
    together_nW: Tensor,
    numbers_n: Tensor,
    taken_n: Tensor,
    fired_F: Tensor,
    num_tokens: int,
    num: int,
) -> tuple[Tensor, Tensor]:
    """Of each latent the `num` with the largest φ > 0, and φ; -1 and 0 where there are fewer."""
    width, num_latents = together_nW.shape[1], len(fired_F)
    begins_nW = torch.ones_like(together_nW, dtype=torch.bool)
    begins_nW[:, 1:] = together_nW.diff() != 0
    row_R, place_R = begins_nW.nonzero(as_tuple=True)
    other_R = together_nW[row_R, place_R].long()
    next_R = torch.cat([place_R[1:], place_R.new_tensor([0])])
    counted_R = next_R.where(next_R > place_R, width) - place_R
    is_one_R = (other_R < num_latents) & (other_R != numbers_n[row_R])
    row_R, place_R, other_R, counted_R = (v[is_one_R] for v in (row_R, place_R, other_R, counted_R))
    one_R, two_R = fired_F[numbers_n[row_R]].double(), fired_F[other_R].double()
    both_R = torch.minimum(counted_R * one_R / taken_n[row_R], torch.minimum(one_R, two_R))
    spread_R = one_R * (num_tokens - one_R) * two_R * (num_tokens - two_R)
    phi_R = (both_R * num_tokens - one_R * two_R) / spread_R.sqrt()
    phi_nW = torch.zeros(together_nW.shape, dtype=torch.float64, device=fired_F.device)
    phi_nW[row_R, place_R] = phi_R.nan_to_num(0.0, 0.0, 0.0)
    phi_nW = torch.nn.functional.pad(phi_nW, (0, max(0, num - width)))
    best_nK, at_nK = phi_nW.topk(num, dim=1)
    padded_nW = torch.nn.functional.pad(together_nW, (0, max(0, num - width)), value=-1)
    return padded_nW.gather(1, at_nK).where(best_nK > 0, -1), best_nK.clamp_min(0.0)
