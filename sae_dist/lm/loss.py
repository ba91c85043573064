"""The language-modelling loss, token by token."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def next_token_loss_NS(model: nn.Module, input_ids_NS: Tensor) -> Tensor:
    """Cross entropy in nats of every predicted token, float32 [N, S-1].

    Entry s is the loss of predicting token s + 1. Logits are raised to float32 one sequence at a
    time, as for large vocabularies they outweigh all else.
    """
    ids_NS = input_ids_NS.long()
    logits_NSV = model(input_ids=ids_NS).logits
    return torch.stack(
        [
            F.cross_entropy(logits_SV[:-1].float(), ids_S[1:], reduction="none")
            for logits_SV, ids_S in zip(logits_NSV, ids_NS, strict=True)
        ]
    )
