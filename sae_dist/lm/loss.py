"""What a language model predicts, token by token: cross entropies and divergences."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def next_token_loss_NS(model: nn.Module, input_ids_NS: Tensor) -> Tensor:
    """Cross entropy in nats of every predicted token, float32 [N, S-1].

    Entry s is the loss of predicting token s + 1.
    """
    return loss_of_logits_NS(model(input_ids=input_ids_NS.long()).logits, input_ids_NS)


def loss_of_logits_NS(logits_NSV: Tensor, input_ids_NS: Tensor) -> Tensor:
    """The same from logits, which are raised to float32 one sequence at a time: for large
    vocabularies they outweigh all else.
    """
    return torch.stack(
        [
            F.cross_entropy(logits_SV[:-1].float(), ids_S[1:], reduction="none")
            for logits_SV, ids_S in zip(logits_NSV, input_ids_NS.long(), strict=True)
        ]
    )


def divergence_NS(clean_NSV: Tensor, logits_NSV: Tensor) -> Tensor:
    """KL(clean ‖ other) in nats of what is predicted for every next token, float32 [N, S-1].

    Tokens that the clean prediction rules out (logits of -inf, as of a padded vocabulary) add 0.
    """
    return torch.stack(
        [
            _divergence(clean_SV[:-1].float(), logits_SV[:-1].float())
            for clean_SV, logits_SV in zip(clean_NSV, logits_NSV, strict=True)
        ]
    )


def _divergence(clean_SV: Tensor, logits_SV: Tensor) -> Tensor:
    p_SV, q_SV = clean_SV.log_softmax(1), logits_SV.log_softmax(1)
    terms_SV = F.kl_div(q_SV, p_SV, reduction="none", log_target=True)
    return terms_SV.masked_fill_(p_SV == -torch.inf, 0.0).sum(1)
