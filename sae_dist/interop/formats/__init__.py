"""The formats by name: ours, and those that installed packages bring (see `Registry`)."""

from sae_dist.common.registry import Registry
from sae_dist.interop.format import Format

OURS = {
    "saelens": "SAELens",
    "sparsify": "Sparsify",
    "gemma_scope": "GemmaScope",
    "dictionary_learning": "DictionaryLearning",
    "sae_dist": "Native",
}
_HOMES = {name: f"{__name__}.{name}:{own}" for name, own in OURS.items()}
FORMATS = Registry("format", "sae_dist.formats", _HOMES, Format)


def format_names() -> list[str]:
    """The names of all formats; nothing is imported."""
    return FORMATS.names()


def format_named(name: str) -> Format:
    """A format; UserError where nobody brings it, or what is brought is none."""
    return FORMATS.load(name)()


def all_formats() -> list[Format]:
    """All of them."""
    return [format_named(name) for name in format_names()]
