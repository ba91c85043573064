"""Steps in which a coder's output also takes its place in the language model."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from sae_dist.evaluate.lm_batch import LMBatch
from sae_dist.finetune.config import FinetuningConfig
from sae_dist.finetune.tokens import IDS, TRAINABLE, TrainingTokens
from sae_dist.lm import LM
from sae_dist.parallel import Mesh, World
from sae_dist.train import Evaluate, Rung, RungConfig, SharedRows, TrainingRun, Watch, training_step
from sae_dist.train.step import StepResult


class Finetuning(TrainingRun):
    """A `TrainingRun` of coders that begin as finished ones, on a store's tokens.

    The language model reads each batch: what passes its sites is what the coders are trained on,
    and what each makes of it is put in the model, for KL(clean ‖ spliced) of the predicted tokens.
    That has the weight at which it is as large as the error of the reconstruction, step by step
    (Karvonen 2025, arXiv 2503.17272). Processes that share latents read the same sequences.

    Args:
        lm: loads the frozen language model, whole.
    """

    def __init__(
        self,
        config: FinetuningConfig,
        rungs: list[RungConfig],
        source: TrainingTokens,
        world: World,
        folder: Path,
        watch: Watch | None = None,
        evaluate: Evaluate | None = None,
        *,
        lm: Callable[[], LM],
    ) -> None:
        super().__init__(config, rungs, source, world, folder, watch, evaluate)
        self._load = lm

    @cached_property
    def lm(self) -> LM:
        """The language model."""
        return self._load()

    def _step(self, rows: SharedRows) -> list[StepResult]:
        passed: dict[int, Passed] = {}
        results = []
        for rung in self.rungs:
            size = rung.mesh.latent.size
            if size not in passed:
                passed[size] = Passed(self.lm, rows.acts, rung.mesh, self.dtype)
            rung.coder.waits = True  # a step that is repeated would have to be read again
            results.append(
                training_step(
                    rung, passed[size], self.step, self.num_steps, price=passed[size].price(rung)
                )
            )
        return results


class Passed(SharedRows):
    """One batch of sequences in the language model: its activations as the rows of `SharedRows`.

    Args:
        tokens: `input_ids` and `trainable` of this process' sequences; those of all that share its
            latents are read.
    """

    def __init__(self, lm: LM, tokens: dict[str, Tensor], mesh: Mesh, dtype: torch.dtype) -> None:
        gathered = (mesh.latent.all_gather(tokens[name].long()) for name in (IDS, TRAINABLE))
        ids_NS, trainable_NS = gathered
        super().__init__({}, dtype)
        self._seen = LMBatch(lm, ids_NS, trainable_NS.bool())

    def start_gather(self, site: str, mesh: Mesh) -> None:
        """Nothing: all rows are here."""

    def normalised(self, site: str, scale: float | Tensor, mesh: Mesh) -> Tensor:
        """The trainable rows [B, width], divided by `scale`."""
        if site not in self.acts:
            self.acts[site] = self._seen.clean_at(site)[self._seen.trainable_NS].to(self._dtype)
        return self.acts[site] / scale

    def price(self, rung: Rung) -> Callable[[Tensor], dict[str, Tensor]]:
        """From what a coder makes of the rows: the divergence, and of how many predictions."""
        seen, target = self._seen, rung.config.target

        def price(made_BE: Tensor) -> dict[str, Tensor]:
            y_NSE = seen.clean_at(target)
            new_NSE = torch.zeros_like(y_NSE, dtype=made_BE.dtype)
            new_NSE = new_NSE.index_put(
                seen.trainable_NS.nonzero(as_tuple=True), made_BE * rung.target_scale
            )
            kl_NS = seen.divergence(target, new_NSE)
            return {"price": kl_NS.sum(), "priced": seen.predicted_NS.sum().double()}

        return price
