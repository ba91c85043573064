"""Neuronpedia: the folder that an instance of it imports.

    FOLDER/MODEL/LAYER-RUN__RUNG/
        release.jsonl, model.jsonl, sourceset.jsonl, source.jsonl    a line each
        features/, activations/, explanations/batch-N.jsonl.gz       a line a latent, a window, …

Fields are those of its database (apps/webapp/prisma/schema.prisma), as SAEDashboard's converter
fills them in. Public uploads are by its maintainers; an instance of one's own imports such folders.
"""

import gzip
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from sae_dist.common.files import write_atomic
from sae_dist.handoff.dashboard import Feature, features, short
from sae_dist.handoff.handoff import Handoff, Texts, layer_and_hook, written_anew
from sae_dist.handoff.saedashboard import PER_BATCH, batches
from sae_dist.latents import Explanation, Latents, read_explanations

CREATOR = "clkht01d40000jv08hvalcvly"  # the user that every instance begins with
_MOVED = {"feature_index", "n_prompts_total", "n_tokens_in_prompt", "dataset", "activations"}
_ID_CHARACTERS = 25
_LEVEL = 5  # of compression, as its converter's
Row = dict[str, Any]

# What its tables want besides, which is not known here, or always so.
_WHOSE: Row = {"creatorName": "sae_dist", "creatorEmail": None, "urls": [], "visibility": "PUBLIC"}
_NO_DEFAULTS: Row = {"defaultSourceSetName": None, "defaultSourceId": None}
_RELEASE: Row = {
    **_WHOSE,
    **_NO_DEFAULTS,
    "descriptionShort": None,
    "creatorNameShort": "sae_dist",
    "defaultUmapSourceIds": [],
    "isNewUi": False,
    "featured": False,
}
_MODEL: Row = {
    **_NO_DEFAULTS,
    "visibility": "PUBLIC",
    "owner": "",
    "website": None,
    "tlensId": None,
    "dimension": None,
    "layers": 0,
    "neuronsPerLayer": 0,
    "instruct": False,
    "inferenceEnabled": False,
}
_SET: Row = {
    **_WHOSE,
    "type": "",
    "defaultOfModelId": None,
    "hasDashboards": True,
    "defaultRange": 1,
    "defaultShowBreaks": True,
    "showCorrelated": True,
    "showDfa": False,
    "showHeadAttribution": False,
    "showUmap": False,
}
_SOURCE: Row = {
    "visibility": "PUBLIC",
    "hasDashboards": True,
    "defaultOfModelId": None,
    "inferenceEnabled": False,
    "inferenceHosts": [],
    "hfRepoId": None,
    "hfFolderId": None,
    "saelensConfig": None,
    "saelensRelease": None,
    "saelensSaeId": None,
    "hasUmap": False,
    "hasUmapLogSparsity": False,
    "hasUmapClusters": False,
}
_ACTIVATION: Row = {
    "dataIndex": None,
    "dataSource": None,
    "lossValues": [],
    "logitContributions": None,
    "dfaValues": [],
    "dfaTargetIndex": None,
    "dfaMaxValue": None,
}


class Neuronpedia(Handoff):
    """A folder a rung, of lines of JSON."""

    name = "neuronpedia"
    title = "Neuronpedia"
    is_by_layer = True

    def write(self, folder: Path, run: Path, rungs: Sequence[str], texts: Texts | None) -> None:
        assert texts is not None
        for name in rungs:
            latents = Latents(run, name)
            source = _Source(latents)
            with written_anew(folder / source.model / source.id, "source.jsonl") as temporary:
                source.write(temporary, texts, read_explanations(run, name))


class _Source:
    """A rung under Neuronpedia's names."""

    def __init__(self, latents: Latents) -> None:
        self.latents = latents
        layer, self.hook = layer_and_hook(latents, Neuronpedia.title)
        self.lm = (latents.about.lm or {}).get("name", "")
        self.model = _model_id(self.lm)
        self.set = latents.about.run
        self.id = f"{layer}-{self.set}__{latents.rung.rung}"
        self.created = datetime.now(UTC).isoformat()

    def write(self, folder: Path, texts: Texts, explanations: dict[int, Explanation]) -> None:
        for name, row in self._about().items():
            write_atomic(folder / f"{name}.jsonl", _lines([row]))
        for part in ("features", "activations", "explanations"):
            (folder / part).mkdir()
        own = features(self.latents, texts)
        for number, several in enumerate(batches(own, PER_BATCH)):
            explained = [explanations.get(one["feature_index"]) for one in several]
            rows = {
                "features": [self._feature(one) for one in several],
                "activations": [row for one in several for row in self._activations(one)],
                "explanations": [self._explanation(one) for one in explained if one is not None],
            }
            for part, lines in rows.items():
                packed = gzip.compress(_lines(lines), _LEVEL, mtime=0)
                write_atomic(folder / part / f"batch-{number}.jsonl.gz", packed)

    def _about(self) -> dict[str, Row]:
        """Its release, language model, set and source: a row each."""
        about, rung = self.latents.about, self.latents.rung
        told = f"{rung.kind} {rung.form.replace('_', ' ')}s of {self.lm}, run {about.run}"
        made = {"creatorId": CREATOR, "createdAt": self.created}
        return {
            "release": _RELEASE | made | {"name": self.set, "description": told},
            "model": {
                **_MODEL,
                **made,
                "id": self.model,
                "displayNameShort": self.model,
                "displayName": self.lm,
                "updatedAt": self.created,
            },
            "sourceset": {
                **_SET,
                **made,
                "modelId": self.model,
                "name": self.set,
                "description": told,
                "releaseName": self.set,
            },
            "source": {
                **_SOURCE,
                **made,
                "id": self.id,
                "modelId": self.model,
                "setName": self.set,
                "num_prompts": about.num_sequences,
                "num_tokens_in_prompt": about.sequence_length,
                "dataset": str((about.source.get("text") or {}).get("path") or ""),
                "notes": f"of {rung.site}, {rung.num_latents} latents, L0 {rung.l0:.4g}",
            },
        }

    def _of(self, latent: int) -> Row:
        return {"modelId": self.model, "layer": self.id, "index": str(latent)}

    def _feature(self, one: Feature) -> Row:
        latent = one["feature_index"]
        near = self.latents.row("nearest", latent)
        cosine = self.latents.row("cosine", latent)
        return {
            **{name: value for name, value in one.items() if name not in _MOVED},
            **self._of(latent),
            "sourceSetName": self.set,
            "creatorId": CREATOR,
            "createdAt": self.created,
            "maxActApprox": short([float(self.latents.row("max", latent))])[0],
            "hasVector": False,
            "vectorLabel": None,
            "vectorDefaultSteerStrength": 10,
            "hookName": self.hook,
            "topkCosSimIndices": near[near >= 0].tolist(),
            "topkCosSimValues": short(cosine[near >= 0]),
        }

    def _activations(self, one: Feature) -> Iterable[Row]:
        for number, window in enumerate(one["activations"]):
            values = window["values"]
            yield {
                **_ACTIVATION,
                **self._of(one["feature_index"]),
                "id": self._new_id("activation", one["feature_index"], number),
                "creatorId": CREATOR,
                "createdAt": self.created,
                "tokens": window["tokens"],
                "values": values,
                "maxValue": max(values),
                "maxValueTokenIndex": values.index(max(values)),
                "minValue": min(values),
                "binMin": window["bin_min"],
                "binMax": window["bin_max"],
                "binContains": window["bin_contains"],
                "qualifyingTokenIndex": window["qualifying_token_index"],
            }

    def _explanation(self, one: Explanation) -> Row:
        """Author and scores are notes: its tables of explainers know none of ours."""
        scores = [f"{name} {score:.3g}" for name, score in one.scores.items() if score is not None]
        told = f"by {one.explainer}, judged by {one.judge}"
        return {
            **self._of(one.latent),
            "id": self._new_id("explanation", one.latent, 0),
            "description": one.text,
            "authorId": CREATOR,
            "createdAt": self.created,
            "updatedAt": self.created,
            "notes": ": ".join([told, ", ".join(scores)] if scores else [told]),
            "typeName": None,
            "explanationModelName": None,
        }

    def _new_id(self, *what: Any) -> str:
        """The same for the same: who imports a folder twice has it once."""
        digest = sha256(msgspec.json.encode([self.model, self.id, *what])).hexdigest()
        return f"c{digest}"[:_ID_CHARACTERS]


def _model_id(name: str) -> str:
    """A language model's name as Neuronpedia may call it: lower case, digits, dashes."""
    return re.sub(r"[^a-z0-9_]+", "-", name.rpartition("/")[2].lower()).strip("-")


def _lines(rows: Iterable[Row]) -> bytes:
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
