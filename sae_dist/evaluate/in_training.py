"""What the language model loses by coders that are still in training."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol

from sae_dist.coders import Coder, Scale, fold
from sae_dist.evaluate.config import EvaluationConfig
from sae_dist.evaluate.measure import Subject
from sae_dist.evaluate.measures.lm_loss import LMLoss
from sae_dist.evaluate.passes import Passes
from sae_dist.lm import LM
from sae_dist.parallel import Mesh
from sae_dist.stream import ActivationSource

_LOGGED = ("delta_loss", "loss_recovered")


class InTraining(Protocol):
    """A rung of a ladder: its coder takes activations divided by `scale`, and gives what is to be
    multiplied by `target_scale`; config: `RungConfig`.
    """

    name: str
    coder: Coder
    scale: Scale
    target_scale: Scale
    mesh: Mesh
    config: Any


def lm_figures(
    source: ActivationSource, lm: Callable[[], LM], config: EvaluationConfig
) -> Callable[[Sequence[InTraining], int], dict[str, dict[str, float]]]:
    """What `TrainingRun(evaluate=…)` may call after so many steps, on all processes together.

    Args:
        source: whose first held-out sequences are read, `config.lm_sequences` of them.
        lm: loads the language model, at the first call.

    Returns:
        a function of rungs and a step: by rung `validation/delta_loss` and
        `validation/loss_recovered`, where they are defined; not of crosscoders of several language
        models.
    """
    load, known = cache(lm), dict[int, Passes]()

    def evaluate(rungs: Sequence[InTraining], step: int) -> dict[str, dict[str, float]]:
        found = {}
        rungs = [
            rung
            for rung in rungs
            if LMLoss.measures_coder(rung.config.site, rung.config.coder.form)
        ]
        for size in sorted({rung.mesh.latent.size for rung in rungs}):
            alike = [
                Subject(
                    coder=fold(rung.coder, rung.scale, target_scale=rung.target_scale),
                    mesh=rung.mesh,
                    num_positions=source.sequence_length,
                    name=rung.name,
                    site=rung.config.site,
                    target=rung.config.target,
                    config=config,
                )
                for rung in rungs
                if rung.mesh.latent.size == size
            ]
            passes = known.setdefault(size, Passes(source, load, config, alike[0].mesh))
            for loss in passes.take(LMLoss(subject) for subject in alike):
                figures = loss.result()
                found[loss.subject.name] = {
                    f"validation/{key}": value
                    for key in _LOGGED
                    if (value := figures[key]) is not None
                }
        return found

    return evaluate
