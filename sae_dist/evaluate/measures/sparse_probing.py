"""What few latents, or all, tell of labels; beside it what the activations themselves tell."""

from statistics import fmean
from typing import Any

from sae_dist.common.declare import Axis, Figure, Mark, Plot, Write
from sae_dist.evaluate.measure import Figures, Subject, TextMeasure
from sae_dist.evaluate.measures.fidelity import L0_AXIS
from sae_dist.evaluate.pooled import PooledTexts
from sae_dist.evaluate.probing import DENSE, Means, Split, accuracies_of_few, fit, one_vs_rest
from sae_dist.evaluate.topics import PROBES, SAEBENCH

_ACCURACY = Axis("test accuracy (%)", "sparse_probing/latents/top_1", log=False, scale=100)


class SparseProbing(TextMeasure):
    """Sparse probing: test accuracies of probes on few latents, and on all of them.

    One class against the others, balanced, of each text the mean over its tokens; the latents whose
    mean differs most between both; the mean over classes, then over data sets. Of every form: it is
    what a coder reads that is probed.
    """

    name = "sparse_probing"
    settings = (*TextMeasure.settings, "probes.latents")
    topic = PROBES
    group = "Sparse probing"
    caption = "Test accuracies; 50 % is guessing."
    source = SAEBENCH
    figures = (
        *(
            Figure(
                f"sparse_probing/{of}/top_{k}",
                f"{heading}, k = {k}",
                f"mean test accuracy of logistic regression (L2, C = 1) on k = {k} {columns}, "
                "those whose mean over texts differs most between a class and the others",
                source=f"{SAEBENCH}: {theirs}_top_{k}_test_accuracy",
                write=Write.PERCENT,
                is_main=(of, k) == ("latents", 1),
            )
            for of, heading, columns, theirs in (
                ("latents", "latents", "latents", "sae"),
                ("activations", "activations", "dimensions of what the coder reads", "llm"),
            )
            for k in (1, 2, 5)
        ),
        *(
            Figure(
                f"sparse_probing/{of}/all",
                f"{heading}, all",
                f"mean test accuracy of a linear probe on all {columns} (AdamW, lr 0.01, batches "
                "of 250, up to 100 epochs, of which the best on these tests is taken)",
                source=f"{SAEBENCH}: {theirs}_test_accuracy",
                write=Write.PERCENT,
            )
            for of, heading, columns, theirs in (
                ("latents", "latents", "latents", "sae"),
                ("activations", "activations", "dimensions", "llm"),
            )
        ),
        Figure(
            "sparse_probing/accuracy",
            "",
            "the means at the numbers of latents `k`; in `data` the same `latents` and "
            "`activations` of each data set by its `name`, with its number of `classes` and of "
            "texts to `train` and to `test` on",
        ),
    )
    plots = (
        Plot(
            "sparse-probing",
            Mark.LINE,
            "Sparse probing",
            "Test accuracy of a probe on the k latents that tell a class best from the others, "
            "mean over classes and data sets.",
            source=SAEBENCH,
            x=Axis("latents probed, k", "sparse_probing/k"),
            y=Axis("test accuracy (%)", "sparse_probing/accuracy", log=False, scale=100),
            panel="family_and_place",
            by_rung=True,
        ),
        Plot(
            "sparse-probing-l0",
            Mark.POINTS,
            "One latent’s accuracy against L0",
            "Sparse probing with the one latent that tells a class best.",
            source=SAEBENCH,
            x=L0_AXIS,
            y=_ACCURACY,
            panel="place",
            join=True,
        ),
    )

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self._data: list[dict[str, Any]] = []

    def update(self, seen: PooledTexts) -> None:
        """Probe each class of a data set."""
        texts, config, device = seen.texts, self.subject.config.probes, self.subject.device
        splits = [one_vs_rest(texts, c, config).to(device) for c in range(len(texts.classes))]
        found = seen.x.once("sparse_probing", lambda: self._probe(seen.x, splits, len(texts)))
        self._data.append(
            {
                "name": texts.name,
                "classes": len(texts.classes),
                "train": int((~texts.is_test_N).sum()),
                "test": int(texts.is_test_N.sum()),
                "latents": self._probe(seen.latents, splits, len(texts)),
                "activations": found,
            }
        )

    def conclude(self) -> Figures:
        """Means over the data sets."""
        ks = [
            k
            for k in self.subject.config.probes.latents
            if k <= self.subject.coder.config.num_latents
        ]
        found = {of: _mean([own[of] for own in self._data]) for of in ("latents", "activations")}
        accuracy = [found["latents"][f"top_{k}"] for k in ks]
        return {"sparse_probing": {**found, "k": ks, "accuracy": accuracy, "data": self._data}}

    def _probe(self, means: Means, splits: list[Split], num_texts: int) -> dict[str, float]:
        """Mean accuracies over the classes."""
        config = self.subject.config.probes
        of_classes = []
        for label, split in enumerate(splits):
            few = accuracies_of_few(means, split, config.latents, num_texts)
            dense = fit(means, split.train, DENSE, config.seed + label, split.test)
            of_classes.append({f"top_{k}": v for k, v in few.items()} | {"all": dense.accuracy})
        return _mean(of_classes)


def _mean(several: list[dict[str, Any]]) -> dict[str, float]:
    return {key: fmean(one[key] for one in several) for key in several[0]}
