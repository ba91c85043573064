import pytest

from examples.reproduce import effects
from examples.reproduce.claims import CLAIMS
from tests.reproduce.made_up import evaluation, rung


def test_wider_is_compared_at_equal_l0_and_with_the_next_width_only() -> None:
    found = evaluation(
        narrow=rung(256, 8.0, 0.20), wide=rung(512, 8.0, 0.15), widest=rung(1024, 8.0, 0.18)
    )
    saved = effects.wider_is_better_fvu(found)
    assert saved == pytest.approx({"narrow → 512": 25.0, "wide → 1024": -20.0})
    assert effects.wider_is_better_loss(found) == pytest.approx(
        {"narrow → 512": 25.0, "wide → 1024": -15.0}
    )


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(4.0, 0.3), (16.0, 0.1)], 0.0),  # halfway between on the axis of log L0: 0.2
        ([(8.3, 0.1)], 50.0),  # alone, but near
        ([(8.5, 0.1)], None),  # too far for one alone
        ([(9.5, 0.1), (16.0, 0.05)], None),  # too far for any
        ([(4.0, 0.3), (7.9, 0.2)], 0.924),  # just outside, on the same line
    ],
)
def test_equal_l0_lies_on_lines_over_log_l0(
    points: list[tuple[float, float]], expected: float | None
) -> None:
    wide = {f"wide{i}": rung(512, l0, fvu) for i, (l0, fvu) in enumerate(points)}
    saved = effects.wider_is_better_fvu(evaluation(narrow=rung(256, 8.0, 0.2), **wide))
    assert saved.get("narrow → 512") == pytest.approx(expected, abs=1e-3)


def test_families_are_not_mixed() -> None:
    found = evaluation(
        narrow=rung(256),
        other_kind=rung(512, kind="jumprelu"),
        other_site=rung(512, site="mlp_out.3"),
        transcoder=rung(512, form="transcoder"),
    )
    assert effects.wider_is_better_fvu(found) == {}


def test_the_median_frequency_is_of_latents_that_fire() -> None:
    def fired(*counts: int) -> dict[str, object]:
        return {"edges_log10": [-3.0, -2.0, -1.0, 0.0], "never": 100, "counts": list(counts)}

    assert effects.median_log10(fired(0, 4, 0)) == -1.5
    assert effects.median_log10(fired(1, 2, 1)) == -1.5
    assert effects.median_log10(fired(3, 0, 1)) == pytest.approx(-3 + 2 / 3)
    assert effects.median_log10(fired(0, 0, 0)) is None
    narrow = rung(256, firing_frequency=fired(0, 4, 0))
    wide = rung(512, firing_frequency=fired(4, 0, 0))
    assert effects.frequency_falls(evaluation(a=narrow, b=wide)) == {"a → 512": 1.0}


def test_r_l0_is_compared_with_the_next_higher_l0() -> None:
    rungs = {f"l0_{l0}": rung(256, l0, uniformity={"r_l0": r}) for l0, r in ((16, 0.5), (8, 0.7))}
    rungs |= {"wide": rung(512, 32, uniformity={"r_l0": 0.1}), "unmeasured": rung(256, 32)}
    falls = effects.uniformity_falls(evaluation(**rungs))
    assert falls == pytest.approx({"l0_8 → l0_16": 0.2})


def test_a_curve_by_position_rises_and_flattens_or_does_not() -> None:
    def coder(curve: list[float | None]) -> dict[str, object]:
        return rung(by_position={"tokens": [0] + [5] * 39, "fvu": curve})

    rising = coder([None] + [0.1] * 2 + [0.15] * 6 + [0.2] * 31)
    rises = effects.loss_rises(evaluation(a=rising))
    assert rises == pytest.approx({"a": 100.0})
    # 0.1 more over 11 positions, then nothing
    assert effects.loss_flattens(evaluation(a=rising)) == pytest.approx({"a": 100 / 11 / 2})
    late = coder([None] + [0.1] * 20 + [0.2] * 19)
    assert effects.loss_rises(evaluation(a=late)) == pytest.approx({"a": 0.0})
    assert effects.loss_flattens(evaluation(a=late))["a"] < 0
    falling = coder([None] + [0.4] * 2 + [0.2] * 37)  # falls, and is flat then
    assert effects.loss_rises(evaluation(a=falling)) == pytest.approx({"a": -50.0})
    assert effects.loss_flattens(evaluation(a=falling))["a"] < 0
    assert effects.loss_rises(evaluation(short=rung())) == {}


def test_the_skip_transcoder_is_compared_with_each_other_form() -> None:
    increases = {"autoencoder": 3.0, "transcoder": 1.5, "skip_transcoder": 2.0}
    rows = [
        {"group": "512 latents", "form": form, "ce_increase_percent": value}
        for form, value in increases.items()
    ]
    found = evaluation() | {"of_run": {"forms": {"rows": rows}}}
    assert effects.skip_is_best(found) == {
        "autoencoder, 512 latents": 1.0,
        "transcoder, 512 latents": -0.5,
    }
    rows[2]["ce_increase_percent"] = None
    assert effects.skip_is_best(found) == {}


def test_explanations_are_compared_by_form_and_with_those_of_other_latents() -> None:
    def explained(form: str, mean: float | None) -> dict[str, object]:
        scores = {"embedding": {"mean": mean, "shuffled": {"mean": 0.5}}}
        return rung(form=form, scores=scores)

    forms = {"sae": "autoencoder", "tc": "transcoder", "skip": "skip_transcoder"}
    means = {"sae": 0.6, "tc": 0.65, "skip": None}
    rows = [{"group": "512 latents", "form": form, "rung": n} for n, form in forms.items()]
    found = evaluation(**{name: explained(forms[name], means[name]) for name in forms})
    found["of_run"] = {"forms": {"rows": rows}}
    assert effects.transcoders_are_clearer(found) == pytest.approx({"transcoder, 512 latents": 5.0})
    assert effects.explanations_foresee(found) == pytest.approx({"sae": 10.0, "tc": 15.0})


def test_transfer_pairs_coders_of_equal_name() -> None:
    def entry(trained_on: str, name: str, fvu: float, delta: float) -> dict[str, object]:
        figures = {"fvu": fvu, "fvu_rescaled": fvu * 1.1, "delta_loss": delta}
        return {"trained_on": trained_on, "rung": name, "part": "rollout", **figures}

    rows = [
        entry("base", "a", 0.3, 0.12),
        entry("finetuned", "a", 0.2, 0.10),
        entry("base", "alone", 0.3, 0.12),
    ]
    found = evaluation() | {"of_run": {"transfer": {"rows": rows}}}
    assert effects.base_coders_transfer(found) == pytest.approx({"a": -20.0})
    assert effects.gap_is_larger_in_fvu(found) == pytest.approx({"a": 30.0})
    assert effects.rescaling_is_no_help(found) == pytest.approx({"a": 10.0})
    assert effects.base_coders_transfer(evaluation() | {"of_run": {}}) == {}


def test_both_sorts_of_latents_are_counted_among_those_that_fire() -> None:
    pair = {
        "smaller": "s",
        "larger": "l",
        "latents": {"novel": 30, "reconstruction": 10, "never_fired": 60},
        "mse": {
            "smaller": {"active": 9.0, "inactive": 5.0, "all": 6.0},
            "larger": {"active": 5.0, "inactive": 4.0, "all": 4.5},
        },
    }
    found = evaluation() | {"pairs": [pair]}
    shares = {"s → l: novel": 75.0, "s → l: reconstruction": 25.0}
    assert effects.both_novel_and_known(found) == shares
    assert effects.novel_latents_are_missing(found) == pytest.approx({"s → l": 50.0})
    pair["latents"] = {"novel": 0, "reconstruction": 0, "never_fired": 100}
    pair["mse"]["smaller"]["active"] = None
    assert effects.both_novel_and_known(found) == {}
    assert effects.novel_latents_are_missing(found) == {}


def test_batchtopk_is_compared_at_topks_width_and_l0() -> None:
    found = evaluation(
        topk=rung(256, 8.0, 0.2),
        wide=rung(512, 8.0, 0.1),
        mlp=rung(256, 8.0, 0.2, site="mlp_out.3"),
        batch=rung(256, 8.2, 0.21, kind="batchtopk"),
    )
    assert effects.batch_matches(found) == pytest.approx({"topk": -5.0})


def test_what_was_not_measured_gives_no_effects() -> None:
    assert [claim.title for claim in CLAIMS if claim.measure(evaluation())] == []
