"""The formats by name: ours, and those of the entry point `sae_dist.formats`."""

from sae_dist.common.registry import Registry
from sae_dist.interop.format import Format

FORMATS = Registry(
    "format",
    Format,
    key="name",
    group="sae_dist.formats",
    ours={
        "saelens": f"{__name__}.saelens:SAELens",
        "sparsify": f"{__name__}.sparsify:Sparsify",
        "gemma_scope": f"{__name__}.gemma_scope:GemmaScope",
        "dictionary_learning": f"{__name__}.dictionary_learning:DictionaryLearning",
        "sae_dist": f"{__name__}.sae_dist:Native",
    },
)


def format_names() -> list[str]:
    """The names of all; nothing is imported."""
    return FORMATS.names()


def format_named(name: str) -> Format:
    """A format; UserError where nobody brings it, or what is brought is none."""
    return FORMATS.named(name)()


def all_formats() -> list[Format]:
    """All of them."""
    return [format_named(name) for name in format_names()]
