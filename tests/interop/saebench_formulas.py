"""SAEBench's figures that are defined otherwise than ours, by its formulas from our activations."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from sae_dist.coders import Coder
from sae_dist.evaluate.lm_batch import replacement_by
from sae_dist.lm import LM, loss_of_logits_NS, resolve, splice
from sae_dist.stream import HeldOutBatch


def of_activations(coder: Coder, site: str, batches: list[HeldOutBatch]) -> dict[str, float]:
    """What is computed of the tokens that are not special, batch by batch.

    `explained_variance` subtracts from E‖x‖² the square of E‖x‖²/D instead of ‖E x‖².
    """
    errors, biases, squares, ratios = [], [], [], []
    for x_BD in (batch.acts[site][batch.trainable].double() for batch in batches):
        ŷ_BD = coder(x_BD.float()).double()
        error_B = (x_BD - ŷ_BD).square().sum(1)
        errors.append(error_B)
        squares.append(x_BD.square().sum(1).mean())
        biases.append(ŷ_BD.square().sum(1).mean() / (x_BD * ŷ_BD).sum(1).mean())
        ratios.append(1 - error_B / (x_BD - x_BD.mean(0)).square().sum(1))
    mean_error = torch.stack([error_B.mean() for error_B in errors]).mean()
    mean_square = torch.stack(squares).mean()
    found = {
        "explained_variance": 1 - mean_error / (mean_square - (mean_square / coder.d_in) ** 2),
        "explained_variance_legacy": torch.cat(ratios).mean(),
        "mse": torch.cat([error_B / len(error_B) for error_B in errors]).mean(),
        "relative_reconstruction_bias": torch.stack(biases).mean(),
    }
    return {name: float(value) for name, value in found.items()}


def of_the_lm(lm: LM, coder: Coder, site: str, batches: list[HeldOutBatch]) -> dict[str, float]:
    """Means over positions whose own token, not the predicted one, is not special.

    Divergences count the last position of a sequence, and ablation zeroes special ones, too.
    """
    ce: dict[str, list[Tensor]] = {"without_sae": [], "with_sae": [], "with_ablation": []}
    kl: dict[str, list[Tensor]] = {"with_sae": [], "with_ablation": []}
    for batch in batches:
        log_p = _log_probabilities(lm, coder, site, batch)
        for name, (loss_NS, log_p_NSV) in log_p.items():
            ce[name].append(loss_NS[batch.trainable[:, :-1]])
            if name in kl:
                clean_NSV = log_p["without_sae"][1]
                divergence_NS = (clean_NSV.exp() * (clean_NSV - log_p_NSV)).sum(2)
                kl[name].append(divergence_NS[batch.trainable])
    ce_loss = {name: float(torch.cat(found).mean()) for name, found in ce.items()}
    kl_div = {name: float(torch.cat(found).mean()) for name, found in kl.items()}
    lost = ce_loss["with_ablation"] - ce_loss["without_sae"]
    return {
        **{f"ce_loss_{name}": value for name, value in ce_loss.items()},
        **{f"kl_div_{name}": value for name, value in kl_div.items()},
        "ce_loss_score": (ce_loss["with_ablation"] - ce_loss["with_sae"]) / lost,
        "kl_div_score": 1 - kl_div["with_sae"] / kl_div["with_ablation"],
    }


def _log_probabilities(
    lm: LM, coder: Coder, site: str, batch: HeldOutBatch
) -> dict[str, tuple[Tensor, Tensor]]:
    """Losses [N, S-1] and log-probabilities [N, S, V] clean, spliced and with zeros everywhere."""
    place = resolve(lm.model, site)
    kept_NS, nothing_NS = ~batch.trainable, torch.zeros_like(batch.trainable)
    changes: dict[str, AbstractContextManager[None]] = {
        "without_sae": nullcontext(),
        "with_sae": splice(lm.model, place, place, replacement_by(coder), kept_NS),
        "with_ablation": splice(
            lm.model, place, place, lambda x, y: torch.zeros_like(y), nothing_NS
        ),
    }
    found = {}
    for name, change in changes.items():
        with change, torch.no_grad():
            logits_NSV = lm.model(input_ids=batch.input_ids).logits
        loss_NS = loss_of_logits_NS(logits_NSV, batch.input_ids).double()
        found[name] = loss_NS, logits_NSV.double().log_softmax(2)
    return found
