"""What a measure says of itself, and every measure by name, in the order of the report.

Another package brings one under the entry point `sae_dist.measures`, as `NAME = "module:Class"`.
"""

from abc import ABC
from collections.abc import Sequence
from enum import StrEnum
from functools import cache
from typing import ClassVar

from sae_dist.coders.config import Form
from sae_dist.common.declare import Figure, Plot, Topic
from sae_dist.common.errors import UserError
from sae_dist.common.joint import is_joint
from sae_dist.common.names import nearest
from sae_dist.common.registry import Registry


class Needs(StrEnum):
    """What a measure is given."""

    WEIGHTS = "weights"  # the coder alone
    CODES = "codes"  # a `CoderOutput` of each batch of held-out sequences
    LM = "lm"  # an `LMBatch` of each
    GRADIENTS = "gradients"  # likewise; fewer sequences, as each takes several passes
    TEXTS = "texts"  # `PooledTexts` of each set of labelled texts
    PAIR = "pair"  # two coders' `CoderOutput`s
    FIGURES = "figures"  # what the others found, of all rungs
    FINETUNE = "finetune"  # a finetune of the language model, and prompts to it
    JUDGE = "judge"  # a language model that explains and judges: sae-dist explain

    @property
    def of_one(self) -> bool:
        """Whether the figures are of one coder."""
        return self not in (Needs.PAIR, Needs.FIGURES, Needs.FINETUNE)

    @property
    def reads(self) -> bool:
        """Whether it reads held-out sequences."""
        return self in (Needs.CODES, Needs.LM, Needs.GRADIENTS, Needs.PAIR)

    @property
    def of_evaluation(self) -> bool:
        """Whether `sae-dist evaluate` measures it, if nothing else is asked of it."""
        return self not in (Needs.FINETUNE, Needs.JUDGE)

    @property
    def runs_lm(self) -> bool:
        """Whether the language model of the store runs, on these or on labelled texts."""
        return self in (Needs.LM, Needs.GRADIENTS, Needs.TEXTS)


class Declared(ABC):
    """What every measure says of itself; its name is that of its file.

    Attributes:
        version: raised when the same figures come to mean, or to be, something else.
        settings: keys of `EvaluationConfig` that the figures depend on, beside `sequences`.
        sequences: key of the number of held-out sequences, or of the labelled texts, it is given.
        group, caption, source: of the table in which its figures stand with others of that group
            and topic; without a group there is none.
        table_by: a key; there is a table for each of its values.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs]

    @classmethod
    def measures_coder(cls, site: str, form: Form) -> bool:
        """Whether it measures coders of a form that read `site`.

        Of several sites what needs the language model is not measured, and of several decoders what
        compares these.
        """
        if form is Form.cross_layer_transcoder:
            return cls.needs is Needs.CODES
        return not is_joint(site) or not cls.needs.runs_lm

    version: ClassVar[int] = 1
    settings: ClassVar[Sequence[str]] = ()
    sequences: ClassVar[str] = "max_sequences"
    topic: ClassVar[Topic]
    group: ClassVar[str] = ""
    caption: ClassVar[str] = ""
    source: ClassVar[str] = ""
    table_by: ClassVar[str] = ""
    figures: ClassVar[Sequence[Figure]] = ()
    plots: ClassVar[Sequence[Plot]] = ()


_HERE = "sae_dist.evaluate.measures"
MEASURES = Registry(
    "measure",
    Declared,
    key="name",
    group="sae_dist.measures",
    ours={
        "fidelity": f"{_HERE}.fidelity:Fidelity",
        "similarity": f"{_HERE}.similarity:Similarity",
        "lm_loss": f"{_HERE}.lm_loss:LMLoss",
        "sites": f"{_HERE}.sites:Sites",
        "position": f"{_HERE}.position:ReconstructionByPosition",
        "frequency": f"{_HERE}.frequency:FiringFrequency",
        "consistency": f"{_HERE}.consistency:ConsistentActivation",
        "coder": f"{_HERE}.coder:Description",
        "uniformity": f"{_HERE}.uniformity:Uniformity",
        "sparse_probing": f"{_HERE}.sparse_probing:SparseProbing",
        "absorption": f"{_HERE}.absorption:Absorption",
        "scr_tpp": f"{_HERE}.scr_tpp:SCRAndTPP",
        "scaling": f"{_HERE}.scaling:ScalingLaws",
        "forms": f"{_HERE}.forms:Forms",
        "novelty": f"{_HERE}.novelty:Novelty",
        "splitting": f"{_HERE}.splitting:Splitting",
        "stitching": f"{_HERE}.stitching:Stitching",
        "transfer": f"{_HERE}.transfer:Transfer",
        "explanations": "sae_dist.explain.figures:Explanations",
    },
)
names = MEASURES.names


@cache
def measures() -> dict[str, type[Declared]]:
    """All of them, imported."""
    return {name: MEASURES.named(name) for name in names()}


def require_measure(key: str, name: str) -> None:
    """Raise UserError for a name that no measure has, with the nearest."""
    if name not in names():
        raise UserError(
            f"{key}={name}; expected measures among {', '.join(names())}{nearest(name, names())}"
        )
