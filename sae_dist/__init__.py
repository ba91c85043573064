"""Harvest, train and measure sparse coders of language-model activations, at scale."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.apps.cli import compose
    from sae_dist.apps.compare import compare
    from sae_dist.apps.dashboard import dashboard
    from sae_dist.apps.evaluate import evaluate
    from sae_dist.apps.export import export
    from sae_dist.apps.harvest import harvest
    from sae_dist.apps.import_coder import import_coder
    from sae_dist.apps.plan import plan
    from sae_dist.apps.report import report
    from sae_dist.apps.selftest import selftest
    from sae_dist.apps.small_lm import small_lm
    from sae_dist.apps.train import train
    from sae_dist.apps.verify import verify
    from sae_dist.interop import load_coder
    from sae_dist.store import open_store, write_store

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "compose",
    "plan",
    "harvest",
    "verify",
    "train",
    "evaluate",
    "compare",
    "report",
    "dashboard",
    "export",
    "import_coder",
    "selftest",
    "small_lm",
    "load_coder",
    "open_store",
    "write_store",
]

lazily(__name__)
