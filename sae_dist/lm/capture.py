"""Read activations from one forward pass, and spend no more than they need."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sae_dist.common.errors import UserError
from sae_dist.lm.hooks import Visit, at_site
from sae_dist.lm.sites import Site, layer_place

Join = Callable[[Tensor], Tensor]


class _AllSeen(Exception):
    """Ends a forward pass from inside its last hook."""


class Capture:
    """Reads every site in one forward pass of a model without its LM head.

    The pass stops as soon as all sites have been seen, unless `stop` is false: then it runs to
    its end, as an engine needs whose ranks gather weights together (ZeRO-3). Such an engine, made
    from `model.base_model`, goes in as `forward` and is called in its place. Where this
    process sees a slice of the width alone (`sliced_sites`), `join[site]` makes it whole.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        sites: Sequence[Site],
        *,
        stop: bool = True,
        forward: Callable[..., Any] | None = None,
        join: Mapping[str, Join] = MappingProxyType({}),
    ) -> None:
        self._model = model
        self._sites = {site.name: site for site in sites}
        self._stop = stop
        self._forward = forward or model.base_model
        self._join = join

    @torch.no_grad()
    def __call__(self, input_ids_NS: Tensor) -> dict[str, Tensor]:
        """Activations [N, S, D] of each site, by name, in the model's dtype and on its device.

        All positions are attended to causally: sequences are full, so that there is no mask.
        Raises UserError if a site is not reached, or is reached without hidden states.
        """
        found: dict[str, Tensor] = {}
        with ExitStack() as hooks:
            for site in self._sites.values():
                hooks.enter_context(at_site(self._model, site, self._keep(site, found)))
            with suppress(_AllSeen):
                self._forward(input_ids=input_ids_NS.long())
        if missing := [name for name in self._sites if name not in found]:
            raise UserError(
                f"found no activations at {', '.join(missing)}; expected a module that the forward "
                "pass runs through; name another"
            )
        return {name: found[name] for name in self._sites}

    def _keep(self, site: Site, found: dict[str, Tensor]) -> Visit:
        def keep(acts_NSD: Tensor) -> None:
            if site.name not in found:  # cloned, as some models go on to write in place
                found[site.name] = self._join.get(site.name, torch.clone)(acts_NSD)
            if self._stop and len(found) == len(self._sites):
                raise _AllSeen

        return keep


def site_widths(capture: Capture, device: torch.device | str) -> dict[str, int]:
    """Width D of each site, by name, from one forward pass of two tokens."""
    acts = capture(torch.zeros(1, 2, dtype=torch.long, device=device))
    return {name: acts_NSD.shape[-1] for name, acts_NSD in acts.items()}


def truncate(model: PreTrainedModel, sites: Sequence[Site]) -> int:
    """Drop, in place, the layers that no site needs; return how many were dropped.

    What `sites` and every earlier place hold stays bit-identical; what comes after the last layer
    (final norm, logits) loses its meaning. Nothing is dropped if a site lies outside of the stack
    of layers, except for the token embedding, or if the sites lie in several stacks.
    """
    embed = model.get_input_embeddings()
    paths = {site.module_path for site in sites}
    places = {layer_place(model, path) for path in paths if model.get_submodule(path) is not embed}
    stacks = {place and place[0] for place in places}
    if len(stacks) != 1 or None in stacks:
        return 0
    (stack,) = stacks
    layers: Any = model.get_submodule(stack or "")
    num_kept = 1 + max(place[1] for place in places if place)
    num_dropped = len(layers) - num_kept
    del layers[num_kept:]
    return num_dropped


def compile_layers(model: PreTrainedModel, sites: Sequence[Site]) -> int:
    """Have torch compile, in place, the layers inside of which no site is; return how many.

    They round differently then. Where one is, a compiled layer would not call its hook.
    """
    paths = [site.module_path for site in sites]
    with_sites = {
        place
        for path in paths
        if (place := layer_place(model, path)) and path != ".".join(map(str, place))
    }
    num_compiled = 0
    for name, stack in list(model.named_modules()):
        if isinstance(stack, nn.ModuleList) and layer_place(model, f"{name}.0") == (name, 0):
            for number, layer in enumerate(stack):
                if (name, number) not in with_sites:
                    layer.forward = torch.compile(layer.forward)  # its own hooks stay outside
                    num_compiled += 1
    return num_compiled
