"""The kinds of coders by name: ours, and those of the entry point `sae_dist.kinds`."""

from sae_dist.coders.config import CoderConfig
from sae_dist.common.registry import Registry

KINDS = Registry(
    "kind of coder",
    CoderConfig,
    key="kind",
    group="sae_dist.kinds",
    ours={
        "jumprelu": f"{__name__}.jumprelu:JumpReLU",
        "topk": f"{__name__}.topk:TopK",
        "batchtopk": f"{__name__}.batchtopk:BatchTopK",
        "hierarchical_topk": f"{__name__}.hierarchical_topk:HierarchicalTopK",
        "relu": f"{__name__}.relu:ReLU",
        "gated": f"{__name__}.gated:Gated",
        "abstopk": f"{__name__}.abstopk:AbsTopK",
    },
)
kind_names = KINDS.names
"""The names of all kinds; nothing is imported."""
kind_named = KINDS.named
"""The class of a kind; raises UserError where nobody brings one of that name."""
