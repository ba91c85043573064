"""What a measure of the language model is given: some sequences, and what changes their loss."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

import sae_dist.lm as language  # lazily: what only declares needs no transformers
from sae_dist.coders import Coder, CrossLayerTranscoder
from sae_dist.common.joint import joined, parts_of
from sae_dist.parallel import Axis

if TYPE_CHECKING:
    from sae_dist.lm import LM, Site
    from sae_dist.lm.splice import Replacement


class Changed(NamedTuple):
    """Sums over a batch's predicted tokens: cross entropies by position [S - 1], and KL(clean ‖ ·).

    Both in nats, in float64.
    """

    loss_S: Tensor
    kl: Tensor


class LMBatch:
    """Some sequences in the language model, clean or with something spliced in.

    What several coders ask is computed once: the clean pass, zeros at a site, gradients there.
    Special tokens keep the language model's own activation, and are not predicted.

    Args:
        zeros: what zeros at a site did to this batch, if that is known; it is filled.
        team: the processes over which the language model is sliced, if it is (`lm.tensor`); they
            all have these sequences. Of some sites each sees a slice of the width alone.
    """

    def __init__(
        self,
        lm: "LM",
        ids_NS: Tensor,
        trainable_NS: Tensor,
        zeros: dict[str, Changed] | None = None,
        team: Axis | None = None,
    ) -> None:
        device = lm.model.device
        self._team = team or Axis()
        self.lm, self.ids_NS, self.trainable_NS = lm, ids_NS.to(device), trainable_NS.to(device)
        self.predicted_NS = self.trainable_NS[:, 1:]
        self._zeros = {} if zeros is None else zeros
        self._clean: dict[str, Tensor] = {}
        self._gradients: dict[tuple[str, str, int], tuple[Tensor, Tensor]] = {}

    @cached_property
    def clean_NSV(self) -> Tensor:
        """The logits of the language model as it is."""
        return self._logits_NSV(nullcontext())

    @cached_property
    def clean_S(self) -> Tensor:
        """The cross entropies of `clean_NSV`, summed by position as in `Changed`."""
        return self._loss_S(self.clean_NSV)

    def clean_at(self, site: str) -> Tensor:
        """The language model's own activations [N, S, D] at a site, or at several side by side."""
        if site not in self._clean:
            self._clean[site] = joined(
                reader(self.lm, parts_of(site), self._team)(self.ids_NS), site
            )
        return self._clean[site]

    @torch.no_grad()
    def spliced(self, read: str, write: str, replacement: "Replacement") -> Changed:
        """With `replacement` of what passes the site `read` in the place of what passes `write`."""
        return self.spliced_all(read, write, [replacement])

    @torch.no_grad()
    def spliced_all(self, read: str, write: str, replacements: Sequence["Replacement"]) -> Changed:
        """The same of several sites side by side, each with its own replacement, all at once."""
        with ExitStack() as changed:
            places = zip(parts_of(read), parts_of(write), replacements, strict=True)
            for one, other, replacement in places:
                changed.enter_context(self._splice(one, other, replacement))
            logits_NSV = self._logits_NSV(nullcontext())
        kl_NS = language.divergence_NS(self.clean_NSV, logits_NSV)
        return Changed(self._loss_S(logits_NSV), kl_NS[self.predicted_NS].double().sum())

    def _splice(
        self, read: str, write: str, replacement: "Replacement"
    ) -> AbstractContextManager[None]:
        source, target = self._site(read), self._site(write)

        def on_slices(x_NSD: Tensor, y_NSE: Tensor) -> Tensor:
            new_NSE = replacement(self._whole(x_NSD, source), self._whole(y_NSE, target))
            if not self._is_sliced(target):
                return new_NSE
            return new_NSE.chunk(self._team.size, -1)[self._team.index]

        return language.splice(self.lm.model, source, target, on_slices, ~self.trainable_NS)

    def divergence(self, site: str, new_NSE: Tensor) -> Tensor:
        """KL(clean ‖ ·) of each predicted token, float64 [M], with new activations at the trainable
        tokens of a site; differentiable in them.
        """
        with self._splice(site, site, lambda x, y: new_NSE):
            logits_NSV: Tensor = self.lm.model(input_ids=self.ids_NS).logits
        return language.divergence_NS(self.clean_NSV, logits_NSV)[self.predicted_NS].double()

    def zero(self, site: str) -> Changed:
        """With zeros at a site, or at several side by side."""
        if site not in self._zeros:
            zeros = [lambda x, y: torch.zeros_like(y)] * len(parts_of(site))
            self._zeros[site] = self.spliced_all(site, site, zeros)
        return self._zeros[site]

    def gradients(self, read: str, write: str, num_positions: int) -> tuple[Tensor, Tensor]:
        """What passes `read` [M, D], and at `write` the gradients of the correct next token's
        logit less the mean logit [M, E], at `num_positions` tokens of each sequence.

        These are evenly spaced among those that neither are special nor predict such. A token's
        gradient takes a pass backward of its own, of all sequences at once; under ZeRO-3 forward,
        too.
        """
        key = read, write, num_positions
        if key not in self._gradients:
            self._gradients[key] = self._differentiate(*key)
        return self._gradients[key]

    @torch.enable_grad()
    def _differentiate(self, read: str, write: str, num_positions: int) -> tuple[Tensor, Tensor]:
        model, source, target = self.lm.model, self._site(read), self._site(write)
        seen: list[Tensor] = []

        def watch(x_NSD: Tensor, y_NSE: Tensor) -> Tensor:
            seen[:] = [x_NSD.detach(), y_NSE.detach().requires_grad_()]
            return seen[1]

        def forward() -> Tensor:
            with language.splice(model, source, target, watch, everywhere):
                logits_NSV: Tensor = model(input_ids=self.ids_NS).logits
            return logits_NSV

        everywhere = torch.zeros_like(self.trainable_NS)
        # ZeRO-3 gathers weights for one pass backward after each forward, and no more
        is_zero3 = hasattr(next(model.parameters()), "ds_id")
        logits_NSV = forward()
        x_NSD, y_NSE = seen
        chosen_NP = _evenly(self.trainable_NS[:, :-1] & self.predicted_NS, num_positions)
        inputs, gradients = [x_NSD[:0, 0]], [y_NSE.detach()[:0, 0]]
        for chosen_N in chosen_NP.T:
            row_M = (chosen_N >= 0).nonzero().flatten()
            if not len(row_M):
                continue
            at = row_M, chosen_N[row_M]
            if is_zero3 and len(inputs) > 1:
                logits_NSV = forward()
            logits_MV = logits_NSV[at].float()
            next_M = self.ids_NS[row_M, at[1] + 1].long()
            goal_M = logits_MV.gather(1, next_M[:, None])[:, 0] - logits_MV.mean(1)
            (grad_NSE,) = torch.autograd.grad(goal_M.sum(), seen[1], retain_graph=not is_zero3)
            inputs.append(x_NSD[at])
            gradients.append(grad_NSE[at])
        return self._whole(torch.cat(inputs), source), self._whole(torch.cat(gradients), target)

    def _is_sliced(self, site: "Site") -> bool:
        return self._team.size > 1 and site.name in language.sliced_sites(self.lm.model, [site])

    def _whole(self, acts: Tensor, site: "Site") -> Tensor:
        """Activations of the whole width [..., D], from each process' slice if they are sliced."""
        if not self._is_sliced(site):
            return acts
        return self._team.all_gather(acts.contiguous(), dim=acts.dim() - 1)

    def _site(self, name: str) -> "Site":
        return language.resolve(self.lm.model, name)

    @torch.no_grad()
    def _logits_NSV(self, changed: AbstractContextManager[None]) -> Tensor:
        with changed:
            logits_NSV: Tensor = self.lm.model(input_ids=self.ids_NS).logits
        return logits_NSV

    def _loss_S(self, logits_NSV: Tensor) -> Tensor:
        loss_NS = language.loss_of_logits_NS(logits_NSV, self.ids_NS).double()
        return loss_NS.where(self.predicted_NS, 0.0).sum(0)


def reader(lm: "LM", sites: Sequence[str], team: Axis | None) -> "language.Capture":
    """Reads the sites of full or filled up sequences; whole ones, over whatever the model is."""
    found = [language.resolve(lm.model, site) for site in sites]
    sliced = language.sliced_sites(lm.model, found) if team and team.size > 1 else frozenset()
    is_zero3 = hasattr(next(lm.model.parameters()), "ds_id")

    def join(acts: Tensor) -> Tensor:
        assert team is not None
        return team.all_gather(acts.contiguous(), dim=acts.dim() - 1)

    forward = lm.model if is_zero3 else None
    joins = dict.fromkeys(sliced, join)
    return language.Capture(lm.model, found, stop=not is_zero3, forward=forward, join=joins)


def replacement_by(coder: Coder) -> "Replacement":
    """What `splice` is to put in the target's place: a coder's output [N, S, E]."""

    def replacement(x_NSD: Tensor, y_NSE: Tensor) -> Tensor:
        x_BD = x_NSD.flatten(0, 1).to(coder.dtype)
        code, acts_N = coder.encode_sparse(x_BD)
        return coder.reconstruct_sparse(code, acts_N, x_BD).view(*x_NSD.shape[:2], coder.d_out)

    return replacement


def replacements_by(coder: CrossLayerTranscoder) -> list["Replacement"]:
    """The same of each layer's target; what earlier layers write there is what they found in the
    pass under way, so that they are to be called in the layers' order.
    """
    written: list[Tensor] = []

    def of(number: int, layer: Coder) -> "Replacement":
        def replacement(x_NSD: Tensor, y_NSE: Tensor) -> Tensor:
            code, acts_N = layer.encode_sparse(x_NSD.flatten(0, 1).to(coder.dtype))
            own_BE = layer.collectives.sum_latents(layer.decode_sparse(code, acts_N))
            ahead_BE = own_BE if number == 0 else own_BE + written.pop()
            size = y_NSE.shape[-1]
            written[:] = [ahead_BE[:, size:]]
            here_BE = ahead_BE[:, :size] + coder.b_dec[number * size : (number + 1) * size]
            return here_BE.view(*x_NSD.shape[:2], size)

        return replacement

    return [of(number, layer) for number, layer in enumerate(coder.layers)]


def _evenly(usable_NS: Tensor, num: int) -> Tensor:
    """Of each row `num` usable positions, evenly spaced [N, num]; -1 where it has fewer."""
    chosen_NP = torch.full((len(usable_NS), num), -1, device=usable_NS.device)
    for row, usable_S in enumerate(usable_NS):
        positions = usable_S.nonzero().flatten()
        taken = min(num, len(positions))
        places = torch.arange(taken, device=positions.device) * len(positions) // max(taken, 1)
        chosen_NP[row, :taken] = positions[places]
    return chosen_NP
