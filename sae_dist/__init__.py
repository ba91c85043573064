"""Harvest, train and measure sparse coders of language-model activations, at scale."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.apps.cli import compose as compose
    from sae_dist.apps.compare import compare as compare
    from sae_dist.apps.dashboard import dashboard as dashboard
    from sae_dist.apps.evaluate import evaluate as evaluate
    from sae_dist.apps.explain import explain as explain
    from sae_dist.apps.export import export as export
    from sae_dist.apps.fetch import fetch as fetch
    from sae_dist.apps.finetune import finetune as finetune
    from sae_dist.apps.harvest import harvest as harvest
    from sae_dist.apps.import_coder import import_coder as import_coder
    from sae_dist.apps.latents import latents as latents
    from sae_dist.apps.plan import plan as plan
    from sae_dist.apps.report import report as report
    from sae_dist.apps.selftest import selftest as selftest
    from sae_dist.apps.small_lm import small_lm as small_lm
    from sae_dist.apps.train import train as train
    from sae_dist.apps.verify import verify as verify
    from sae_dist.attach import attach as attach
    from sae_dist.interop import load_coder as load_coder
    from sae_dist.store import open_store as open_store
    from sae_dist.store import write_store as write_store

__version__ = "0.1.0"
lazily(__name__)
