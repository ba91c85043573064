"""Our probing measures and SAEBench's own, on the same coder, language model and texts."""

import json
import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sae_dist.coders import save_coder
from sae_dist.common.log import progress
from sae_dist.evaluate import EvaluationConfig, Subject
from sae_dist.evaluate.config import ProbesConfig
from sae_dist.evaluate.labelled import LabelledTexts, Sample, labelled_texts, read_samples
from sae_dist.evaluate.lm_batch import reader
from sae_dist.evaluate.measures.absorption import Absorption, absorbed
from sae_dist.evaluate.measures.scr_tpp import SCRAndTPP, pairs, scr, tpp
from sae_dist.evaluate.measures.sparse_probing import SparseProbing
from sae_dist.evaluate.pooled import PooledTexts, pool
from sae_dist.evaluate.probing import Probe, one_vs_rest, texts_of
from sae_dist.evaluate.tasks import first_letter
from sae_dist.lm import LM, LMConfig
from tests.apps.commands import ROOT
from tests.evaluate import letters
from tests.evaluate.made_up import subject_of
from tests.interop.hub import serving
from tests.interop.saebench_measure import python

LM_NAME = "01-ai/Yi-6B"  # as in saebench_measure
SEEDS, LETTERS_SEEDS, ABLATED = 4, 3, [2, 5, 10]
PROBES = ProbesConfig(
    train_texts=400, test_texts=160, context=letters.CONTEXT, latents=[1, 2, 5], ablated=ABLATED
)
KEYS = "professor / nurse", "male / female", "male_professor / female_nurse"
REST = "nurse_data_only", "female_data_only", "female_nurse_data_only"


@dataclass
class Probed:
    """What SAEBench says by evaluation and seed, and what we do: a record a seed of the same keys.

    Attributes:
        ours_of_its_probes: SCR and TPP with the probes of SAEBench's first seed.
        words: fraction and fullness, word by word: SAEBench's and ours.
    """

    theirs: dict[str, list[dict[str, Any]]]
    ours: dict[str, list[dict[str, Any]]]
    ours_of_its_probes: dict[str, dict[str, list[float]]]
    words: list[tuple[tuple[float, bool], tuple[float, bool]]]


def measure(home: Path) -> Probed:
    """Let SAEBench measure the made-up coder, and measure it ourselves."""
    letters.save_lm(home / LM_NAME)
    coder = letters.coder(centred=True)
    about = {"site": letters.SITE, "target": letters.SITE}
    save_coder(home / "coder", coder, coder.state_dict(), about)
    lm = LM(letters.model(), letters.tokenizer(), LMConfig(name=LM_NAME), "none")
    subject = subject_of(coder, site=letters.SITE, target=letters.SITE)
    texts = {num: _texts(home, num) for num in (2, 4)}
    seen = {num: _pooled(own, subject, lm) for num, own in texts.items()}
    plan = _plan(texts, coder)
    theirs = _run(home, plan)
    ours: dict[str, list[dict[str, Any]]] = {"two": [_probing(subject, seen[2], 0)]}
    ours["four"] = [_probing(subject, seen[4], seed) for seed in range(SEEDS)]
    ours["tpp"] = [_figures(SCRAndTPP, subject, seen[4], seed)["tpp"] for seed in range(SEEDS)]
    ours["absorption"] = [_absorption(subject, lm, seed) for seed in range(LETTERS_SEEDS)]
    return Probed(
        theirs=theirs,
        ours=ours,
        ours_of_its_probes=_of_its_probes(theirs, seen),
        words=_words(theirs["words"], plan, subject, lm),
    )


def at(records: list[dict[str, Any]], *keys: str) -> list[float]:
    """What lies at a path of keys, of each record."""
    found: Any = records
    for key in keys:
        found = [record[key] for record in found]
    return found


def _texts(home: Path, num_classes: int) -> LabelledTexts:
    path = home / f"{num_classes}.jsonl"
    letters.write_texts(path, classes=num_classes, num_each=260, length=letters.CONTEXT)
    samples = read_samples(f"{path}:profession,gender")
    return labelled_texts(path.stem, samples, letters.tokenizer(), PROBES, letters.CONTEXT)


def _pooled(texts: LabelledTexts, subject: Subject, lm: LM) -> PooledTexts:
    capture = reader(lm, [letters.SITE], None)
    with progress(total=len(texts), desc=texts.name, unit="text") as bar:
        (seen,) = pool(texts, [subject], capture, 64, bar)
    return seen


def _plan(texts: dict[int, LabelledTexts], coder: Any) -> dict[str, Any]:
    probe = coder.W_dec[1] + 0.3 * coder.W_dec[2]
    return {
        "model": LM_NAME,
        "coder": "coder",
        "seeds": SEEDS,
        "letters_seeds": LETTERS_SEEDS,
        "ablated": ABLATED,
        "two": _classes(texts[2]),
        "four": _classes(texts[4]),
        "tpp": _classes(texts[4]),
        "scr": _quadrants(texts[4]),
        "words": [word for word in letters.words() if word[0] in "bc"],
        "probe": probe.tolist(),
        "main": [1],
    }


def _classes(texts: LabelledTexts) -> dict[str, Any]:
    """The same texts of each class as we take, as SAEBench names classes."""
    most = {"train": PROBES.train_texts // 2, "test": PROBES.test_texts // 2}
    return {
        part: {
            str(c): texts.ids_NS[texts_of(texts, c, size, is_test=part == "test")].tolist()
            for c in range(len(texts.classes))
        }
        for part, size in most.items()
    }


def _quadrants(texts: LabelledTexts) -> dict[str, Any]:
    """Of the first pair what its three probes tell apart, as SAEBench names it."""
    found: dict[str, dict[str, Any]] = {"train": {}, "test": {}}
    for split, key, rest in zip(pairs(texts, PROBES)[0].splits, KEYS, REST, strict=True):
        for part, examples in (("train", split.train), ("test", split.test)):
            for name, is_so in ((key, 1), (rest, 0)):
                rows = examples.rows_R[examples.is_so_R == is_so]
                found[part][name] = texts.ids_NS[rows].tolist()
    return found


def _figures(kind: Any, subject: Subject, seen: PooledTexts, seed: int) -> dict[str, Any]:
    """A measure's, with probes of a seed."""
    config = EvaluationConfig(probes=replace(PROBES, seed=seed))
    made = kind(replace(subject, config=config))
    fresh = replace(seen, y=replace(seen.y, _known={}), x=replace(seen.x, _known={}))
    made.update(fresh)
    found: dict[str, Any] = made.result()
    return found


def _probing(subject: Subject, seen: PooledTexts, seed: int) -> dict[str, Any]:
    """By SAEBench's names."""
    found = _figures(SparseProbing, subject, seen, seed)["sparse_probing"]
    return {
        side: {
            f"{side}_{f'{key}_' if key != 'all' else ''}test_accuracy": v for key, v in own.items()
        }
        for side, own in (("llm", found["activations"]), ("sae", found["latents"]))
    }


def _absorption(subject: Subject, lm: LM, seed: int) -> dict[str, Any]:
    samples = first_letter(lm.tokenizer, seed)
    texts = labelled_texts("first_letter", samples, lm.tokenizer, PROBES, 128)
    seen = _pooled(texts, subject, lm)
    found = _figures(Absorption, subject, seen, seed)["absorption"]
    return {
        "mean_absorption_fraction_score": found["fraction"],
        "mean_full_absorption_score": found["full"],
        "mean_num_split_features": found["split"],
        "letters": found["letters"],
    }


def _of_its_probes(theirs: dict[str, Any], seen: dict[int, PooledTexts]) -> dict[str, Any]:
    texts = seen[4].texts
    fitted = {which: theirs[which][0]["probes"] for which in ("scr", "tpp")}
    of_pair = [_probe(*fitted["scr"][key]) for key in KEYS]
    of_classes = [_probe(*fitted["tpp"][str(c)]) for c in range(len(texts.classes))]
    splits = [one_vs_rest(texts, c, PROBES) for c in range(len(texts.classes))]
    return {
        "scr": scr(seen[4], pairs(texts, PROBES)[0].splits, of_pair, ABLATED),
        "tpp": tpp(seen[4], splits, of_classes, ABLATED),
    }


def _probe(weight: list[float], bias: list[float]) -> Probe:
    return Probe(torch.tensor(weight)[:, None], torch.tensor(bias))


def _words(
    theirs: list[dict[str, Any]], plan: dict[str, Any], subject: Subject, lm: LM
) -> list[tuple[tuple[float, bool], tuple[float, bool]]]:
    """On SAEBench's very prompts."""
    samples = []
    for own in theirs:
        begin = own["prompt"].rindex(own["word"])
        span = begin, begin + len(own["word"])
        samples.append(
            Sample(own["prompt"], own["word"][0], span=span, is_test=len(samples) % 2 > 0)
        )
    texts = labelled_texts("words", samples, lm.tokenizer, PROBES, 128)
    main, probe = torch.tensor(plan["main"]), torch.tensor(plan["probe"])
    rows = torch.arange(len(texts))
    found = absorbed(_pooled(texts, subject, lm), probe, main, rows)
    ours = zip(found.fraction_R.tolist(), found.is_full_R.tolist(), strict=True)
    told = ((own["fraction"], own["full"]) for own in theirs)
    assert [s.label for s in samples] == [texts.classes[c] for c in texts.label_N]  # in their order
    return list(zip(told, ours, strict=True))


def _run(home: Path, plan: dict[str, Any]) -> dict[str, Any]:
    (home / "plan.json").write_text(json.dumps(plan))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "PYTHON"))}
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "JAXTYPING_DISABLE": "1"}
    client = str(Path(__file__).with_name("saebench_probes_client.py"))
    with serving() as hub:
        done = subprocess.run(
            [python() or "", client, "plan.json"],
            cwd=home,
            env={**kept, **own, **hub.environment(str(home / "hf"))},
            capture_output=True,
            text=True,
            timeout=1800,
        )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    found: dict[str, Any] = json.loads((home / "probed.json").read_text())
    return found
