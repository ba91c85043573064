"""The kinds of coders by name: ours, and those that installed packages bring (see `Registry`)."""

from sae_dist.coders.config import CoderConfig
from sae_dist.common.registry import Registry

OURS = {
    "jumprelu": "JumpReLU",
    "topk": "TopK",
    "batchtopk": "BatchTopK",
    "abstopk": "AbsTopK",
}
_HOMES = {name: f"{__name__}.{name}:{kind}" for name, kind in OURS.items()}
KINDS = Registry("kind of coder", "sae_dist.kinds", _HOMES, CoderConfig, key="kind")


def kind_names() -> list[str]:
    """The names of all kinds; nothing is imported."""
    return KINDS.names()


def kind_named(name: str) -> type[CoderConfig]:
    """The class of a kind; UserError where nobody brings it, or what is brought is none."""
    return KINDS.load(name)
