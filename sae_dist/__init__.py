"""Harvest, train and measure sparse coders of language-model activations, at scale."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_dist.interop import load_coder as load_coder
    from sae_dist.store import open_store as open_store
    from sae_dist.store import write_store as write_store

__version__ = "0.1.0"
_HOMES = {
    "load_coder": "sae_dist.interop",
    "open_store": "sae_dist.store",
    "write_store": "sae_dist.store",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Import public functions on first use: `import sae_dist` loads neither torch nor zarr."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sae_dist' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
