"""The effects that published claims speak of, looked for in one run's evaluation.

Each function gives numbers by label, larger the more they are as published, and none where the
evaluation lacks what it needs. "At its L0" is on straight lines between measured coders.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from math import log
from typing import Any

from examples.reproduce.verdict import Effects, Evaluation

Rung = dict[str, Any]
_FAMILY = ("kind", "form", "site", "target")
_SLACK, _SLACK_ALONE = 1.15, 1.05  # how far outside of the L0s measured one may lie
_FIRST, _PLATEAU = slice(1, 3), slice(9, 17)  # positions; 0 is BOS
_LEAST_POSITIONS = 32


def wider_is_better_fvu(evaluation: Evaluation) -> Effects:
    """Per cent of the narrower coder's FVU that the next width saves at its L0."""
    return {
        label: 100 * (1 - wide / narrow) for label, narrow, wide in _next_widths(evaluation, "fvu")
    }


def wider_is_better_loss(evaluation: Evaluation) -> Effects:
    """Millinats of the narrower coder's delta loss that the next width saves at its L0."""
    return {
        label: 1000 * (narrow - wide)
        for label, narrow, wide in _next_widths(evaluation, "delta_loss")
    }


def frequency_falls(evaluation: Evaluation) -> Effects:
    """Decades by which the median firing frequency of latents that fire is lower at the next
    width.
    """
    found = _next_widths(evaluation, "median_log10")
    return {label: narrow - wide for label, narrow, wide in found}


def uniformity_falls(evaluation: Evaluation) -> Effects:
    """How much lower r_L0 is at the next higher L0 of the same width."""
    effects = {}
    for _, by_width in _families(evaluation):
        for rungs in by_width.values():
            known = {n: r for n, r in rungs.items() if (r.get("uniformity") or {}).get("r_l0")}
            names = sorted(known, key=lambda name: rungs[name]["l0"])
            for low, high in pairwise(names):
                few, many = (rungs[name]["uniformity"]["r_l0"] for name in (low, high))
                effects[f"{low} → {high}"] = few - many
    return effects


def loss_rises(evaluation: Evaluation) -> Effects:
    """Per cent by which the reconstruction loss at positions 9 to 16 exceeds that at 1 and 2."""
    return {
        name: 100 * (plateau / first - 1) for name, first, plateau, _, _ in _by_position(evaluation)
    }


def loss_flattens(evaluation: Evaluation) -> Effects:
    """By how much the loss rises faster at first (positions 1 and 2 to 9 to 16) than it changes
    later (9 to 16 to the last quarter), in per cent of the loss at 9 to 16 a position.
    """
    effects = {}
    for name, first, plateau, last, num in _by_position(evaluation):
        early = (plateau - first) / (_middle(_PLATEAU) - _middle(_FIRST))
        late = abs(last - plateau) / (_middle(_last_quarter(num)) - _middle(_PLATEAU))
        effects[name] = 100 * (early - late) / plateau
    return effects


def skip_is_best(evaluation: Evaluation) -> Effects:
    """Points of CE increase % that a skip transcoder saves against the other two forms."""
    effects = {}
    for group, by_form in _by_form(evaluation, lambda row: row["ce_increase_percent"]):
        for other in ("autoencoder", "transcoder"):
            if None not in (by_form.get("skip_transcoder"), by_form.get(other)):
                effects[f"{other}, {group}"] = by_form[other] - by_form["skip_transcoder"]
    return effects


def transcoders_are_clearer(evaluation: Evaluation) -> Effects:
    """Points of AUROC by which explanations of a transcoder's latents, skip or not, foresee better
    where they fire than those of an autoencoder of the same MLP.
    """

    def score(row: Rung) -> float | None:
        return _explained(evaluation["rungs"][row["rung"]]).get("mean")

    effects = {}
    for group, by_form in _by_form(evaluation, score):
        for form in ("transcoder", "skip_transcoder"):
            if None not in (by_form.get(form), by_form.get("autoencoder")):
                effects[f"{form}, {group}"] = 100 * (by_form[form] - by_form["autoencoder"])
    return effects


def explanations_foresee(evaluation: Evaluation) -> Effects:
    """Points of AUROC by which a latent's own explanation does better than another latent's."""
    effects = {}
    for name, rung in evaluation["rungs"].items():
        found = _explained(rung)
        chance = (found.get("shuffled") or {}).get("mean")
        if None not in (found.get("mean"), chance):
            effects[name] = 100 * (found["mean"] - chance)
    return effects


def base_coders_transfer(evaluation: Evaluation) -> Effects:
    """Per cent by which a base coder's delta loss on the finetune's rollouts is below that of the
    coder trained on the finetune: negative, as it is above.
    """
    return {
        label: 100 * (1 - base["delta_loss"] / own["delta_loss"])
        for label, base, own in _transferred(evaluation)
        if own["delta_loss"] > 0
    }


def gap_is_larger_in_fvu(evaluation: Evaluation) -> Effects:
    """Per cent by which the ratio of both coders' FVU exceeds that of their delta losses."""
    return {
        label: 100 * (base["fvu"] / own["fvu"] - base["delta_loss"] / own["delta_loss"])
        for label, base, own in _transferred(evaluation)
        if own["delta_loss"] > 0
    }


def rescaling_is_no_help(evaluation: Evaluation) -> Effects:
    """Per cent by which a base coder's FVU on rollouts rises when they are made as long as where it
    was trained.
    """
    return {
        label: 100 * (base["fvu_rescaled"] / base["fvu"] - 1)
        for label, base, _ in _transferred(evaluation)
    }


def both_novel_and_known(evaluation: Evaluation) -> Effects:
    """Per cent of the larger coder's latents that fire: novel ones, and reconstruction ones."""
    effects = {}
    for pair in evaluation.get("pairs") or []:
        counts = pair["latents"]
        fired = counts["novel"] + counts["reconstruction"]
        for part in ("novel", "reconstruction") if fired else ():
            effects[f"{_pair(pair)}: {part}"] = 100 * counts[part] / fired
    return effects


def novel_latents_are_missing(evaluation: Evaluation) -> Effects:
    """Where latents that the smaller coder lacks are active: by how much more its MSE rises than
    the larger one's, in per cent of its MSE.
    """
    effects = {}
    for pair in evaluation.get("pairs") or []:
        small, large = pair["mse"]["smaller"], pair["mse"]["larger"]
        if small["active"] is not None and small["inactive"] is not None and small["all"]:
            gaps = [coder["active"] - coder["inactive"] for coder in (small, large)]
            effects[_pair(pair)] = 100 * (gaps[0] - gaps[1]) / small["all"]
    return effects


def batch_matches(evaluation: Evaluation) -> Effects:
    """Per cent of a TopK coder's FVU that BatchTopK saves at its width and L0."""
    families = dict(_families(evaluation))
    effects = {}
    for (kind, *place), by_width in families.items():
        batch = families.get(("batchtopk", *place), {}) if kind == "topk" else {}
        for width in by_width.keys() & batch.keys():
            for name, rung in by_width[width].items():
                value = _at(_points(batch[width], "fvu"), rung["l0"])
                if value is not None:
                    effects[name] = 100 * (1 - value / rung["fvu"])
    return dict(sorted(effects.items()))


def _families(evaluation: Evaluation) -> Iterator[tuple[tuple[str, ...], dict[int, Any]]]:
    """Autoencoders by kind, form, site and target: of each width its rungs by name."""
    found: dict[tuple[str, ...], dict[int, dict[str, Rung]]] = {}
    for name, rung in evaluation["rungs"].items():
        if rung["form"] == "autoencoder":
            family = found.setdefault(tuple(rung[key] for key in _FAMILY), {})
            family.setdefault(rung["num_latents"], {})[name] = rung
    for key, by_width in sorted(found.items()):
        yield key, dict(sorted(by_width.items()))


def _next_widths(evaluation: Evaluation, measure: str) -> Iterator[tuple[str, float, float]]:
    """(label, a measure of a coder, the same at its L0 and the next width)."""
    for _, by_width in _families(evaluation):
        for narrow, wide in pairwise(by_width):
            points = _points(by_width[wide], measure)
            for name, rung in by_width[narrow].items():
                own, other = _value(rung, measure), _at(points, rung["l0"])
                if own is not None and other is not None:
                    yield f"{name} → {wide}", own, other


def _points(rungs: dict[str, Rung], measure: str) -> list[tuple[float, float]]:
    """(log L0, measure), in order."""
    found = ((rung["l0"], _value(rung, measure)) for rung in rungs.values())
    return sorted((log(l0), value) for l0, value in found if value is not None and l0 > 0)


def _at(points: list[tuple[float, float]], l0: float) -> float | None:
    """A measure at an L0, on straight lines over log L0; None where no L0 near was measured."""
    if not points or l0 <= 0:
        return None
    x, slack = log(l0), log(_SLACK if len(points) > 1 else _SLACK_ALONE)
    if not points[0][0] - slack <= x <= points[-1][0] + slack:
        return None
    if len(points) == 1:
        return points[0][1]
    right = next((i for i, point in enumerate(points) if point[0] >= x), len(points) - 1)
    (x0, y0), (x1, y1) = points[max(right, 1) - 1], points[max(right, 1)]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0) if x1 > x0 else y0


def _value(rung: Rung, measure: str) -> float | None:
    if measure == "median_log10":
        return median_log10(rung["firing_frequency"])
    return rung.get(measure)


def median_log10(histogram: dict[str, Any]) -> float | None:
    """The median of log₁₀ frequencies of latents that fired, evenly spread within each bin."""
    edges, counts = histogram["edges_log10"], histogram["counts"]
    left = sum(counts) / 2
    for (low, high), count in zip(pairwise(edges), counts, strict=True):
        if count and left <= count:
            return low + (high - low) * left / count
        left -= count
    return None


def _by_position(evaluation: Evaluation) -> Iterator[tuple[str, float, float, float, int]]:
    """Of each family's widest coders (name, FVU at positions 1 and 2, at 9 to 16, in the last
    quarter, number of positions).
    """
    for _, by_width in _families(evaluation):
        for name, rung in by_width[max(by_width)].items():
            curve, num = rung["by_position"], len(rung["by_position"]["fvu"])
            if num >= _LEAST_POSITIONS:
                parts = (_FIRST, _PLATEAU, _last_quarter(num))
                first, plateau, last = (_mean(curve, part) for part in parts)
                if first and plateau and last is not None:
                    yield name, first, plateau, last, num


def _transferred(evaluation: Evaluation) -> Iterator[tuple[str, Rung, Rung]]:
    """(rung, its figures on rollouts trained on the base, and those trained on the finetune)."""
    rows = [row for row in _rows(evaluation, "transfer") if row["part"] == "rollout"]
    base = {row["rung"]: row for row in rows if row["trained_on"] == "base"}
    for own in rows:
        if own["trained_on"] != "finetuned" or own["rung"] not in base:
            continue
        pair = base[own["rung"]], own
        if None not in (row[key] for row in pair for key in ("fvu", "delta_loss")):
            yield own["rung"], *pair


def _by_form(
    evaluation: Evaluation, value: Callable[[Rung], float | None]
) -> Iterable[tuple[str, dict[str, Any]]]:
    """Of coders that differ in their form alone a value by form, by what they have in common."""
    groups: dict[str, dict[str, Any]] = {}
    for row in _rows(evaluation, "forms"):
        groups.setdefault(row["group"], {})[row["form"]] = value(row)
    return groups.items()


def _rows(evaluation: Evaluation, measure: str) -> list[Rung]:
    """What a measure of all rungs found, if it was taken."""
    return list(evaluation.get("of_run", {}).get(measure, {}).get("rows", []))


def _explained(rung: Rung) -> dict[str, Any]:
    """What explanations of a coder's latents got from a judge that embeds, if it was asked."""
    found = (rung.get("scores") or {}).get("embedding")
    return found or {}


def _last_quarter(num: int) -> slice:
    return slice(num - num // 4, num)


def _middle(part: slice) -> float:
    return (part.start + part.stop - 1) / 2


def _mean(curve: dict[str, Any], part: slice) -> float | None:
    """The mean FVU over the tokens at some positions; None where it is defined at none."""
    tokens, values = curve["tokens"][part], curve["fvu"][part]
    known = [(n, value) for n, value in zip(tokens, values, strict=True) if value is not None]
    return sum(n * value for n, value in known) / sum(n for n, _ in known) if known else None


def _pair(pair: dict[str, Any]) -> str:
    return f"{pair['smaller']} → {pair['larger']}"
