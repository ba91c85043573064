"""The formats by name: ours, and those of the entry point `sae_dist.formats`."""

from collections.abc import Callable

from sae_dist.common.registry import Registry
from sae_dist.interop.format import Format, P

_WRITTEN = {
    "saelens": f"{__name__}.saelens:SAELens",
    "sparsify": f"{__name__}.sparsify:Sparsify",
    "gemma_scope": f"{__name__}.gemma_scope:GemmaScope",
    "gemma_scope_2": f"{__name__}.gemma_scope_2:GemmaScope2",
    "dictionary_learning": f"{__name__}.dictionary_learning:DictionaryLearning",
    "sae_dist": f"{__name__}.sae_dist:Native",
}
_ONLY_READ = {
    "llama_scope": f"{__name__}.llama_scope:LlamaScope",
    "llama_scope_r1": f"{__name__}.llama_scope:LlamaScopeR1",
    "qwen_scope": f"{__name__}.qwen_scope:QwenScope",
    "goodfire": f"{__name__}.goodfire:Goodfire",
    "circuit_tracer": f"{__name__}.circuit_tracer:CircuitTracerSet",
}
FORMATS = Registry(
    "format",
    Format,
    key="name",
    group="sae_dist.formats",
    ours={**_WRITTEN, **_ONLY_READ},
)


def format_names() -> list[str]:
    """The names of those that are written; nothing is imported."""
    return [name for name in FORMATS.names() if name not in _ONLY_READ]


def format_named(name: str) -> Format:
    """A format; UserError where nobody brings it, or what is brought is none."""
    return FORMATS.named(name)()


def all_formats() -> list[Format]:
    """All of them, those that are only read as well."""
    return [format_named(name) for name in FORMATS.names()]


def formats_of(weights: P, is_there: Callable[[P], bool]) -> list[Format]:
    """The formats that a file of weights may be of: those whose other files lie with it.

    Args:
        weights: whose name tells; it need not be there.
        is_there: whether another file is.

    Returns:
        where none is complete, the first that has such a name; nothing where none has.
    """
    named = [one for one in all_formats() if weights.match(one.weights)]
    whole = [one for one in named if all(map(is_there, one.settings_of(weights)))]
    return whole or named[:1]
