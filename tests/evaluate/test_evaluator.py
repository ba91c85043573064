import gc
import json
import re
import shutil
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sae_dist.checkpoint.ranks import on_first_rank
from sae_dist.coders import Coder, Form, load_coder, save_coder
from sae_dist.common.errors import UserError
from sae_dist.evaluate import (
    Candidate,
    EvaluationConfig,
    PairConfig,
    Subject,
    evaluate,
    evaluator,
    finished,
    read_evaluation,
    registry,
)
from sae_dist.evaluate.measures.coder import Description
from sae_dist.lm import LM, LMConfig
from sae_dist.parallel import SharingConfig, World
from sae_dist.store import Store, open_store, write_store
from sae_dist.stream import HeldOutPart, StoredActivations
from tests.coders.kinds import config_of_kind
from tests.harvest.tiny import tiny_harvest
from tests.lm.tiny import WIDTH, tiny_model
from tests.processes import alone, run_on

CPU = torch.device("cpu")
NUM_LATENTS = {"jumprelu": 48, "topk-skip": 48, "batchtopk": 48, "jumprelu-wide": 64}
LOSSES = ("fvu", "delta_loss")
FEW: dict[str, Any] = {"max_sequences": 4, "lm_sequences": 2, "uniformity_sequences": 1}
CHANGED = {"batch_tokens": 4096, "max_sequences": 5}
CODERS = {
    "jumprelu": ("jumprelu", Form.autoencoder, "resid_post.1", "resid_post.1"),
    "jumprelu-wide": ("jumprelu", Form.autoencoder, "resid_post.1", "resid_post.1"),
    "topk-skip": ("topk", Form.skip_transcoder, "mlp_in.1", "mlp_out.1"),
    "batchtopk": ("batchtopk", Form.transcoder, "mlp_in.1", "mlp_out.1"),
}


def save_random_coders(folder: Path, width: int = WIDTH, seed: int = 0) -> Path:
    """A run's folder with coders that nobody trained."""
    generator = torch.Generator().manual_seed(seed)
    for coder_name, (kind, form, site, target) in CODERS.items():
        config = config_of_kind(kind, form=form, num_latents=NUM_LATENTS[coder_name], k=5)
        coder = Coder(config, width, width, pre_bias=False)
        tensors = {
            name: torch.randn(tensor.shape, generator=generator).abs() * 0.2 + 0.3
            if "threshold" in name
            else 0.2 * torch.randn(tensor.shape, generator=generator)
            for name, tensor in coder.state_dict().items()
        }
        save_coder(folder / "coders" / coder_name, coder, tensors, {"site": site, "target": target})
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_coders(tmp_path_factory.mktemp("evaluate") / "run")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its held-out shards have twelve sequences of eight tokens."""
    path = tmp_path_factory.mktemp("evaluate") / "store"
    tiny_harvest(path)
    return path


@pytest.fixture(scope="module")
def measured(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like `run`, measured by one process and left as it is."""
    run = save_random_coders(tmp_path_factory.mktemp("measured") / "run")
    evaluated(alone(), run, store)
    return run


@pytest.fixture
def expected(measured: Path) -> dict[str, Any]:
    """What was measured."""
    return read_evaluation(measured)


def tiny_lm() -> LM:
    return LM(tiny_model("llama"), None, LMConfig(name="tiny"), "none")  # type: ignore[arg-type]


def evaluated(world: World, run: Path, store: Path, **settings: Any) -> dict[str, Any]:
    """The results of an evaluation from the beginning."""
    on_first_rank(None, lambda: shutil.rmtree(run / "evaluation", ignore_errors=True))
    return gone_on_with(world, run, store, **settings)


def gone_on_with(world: World, run: Path, store: Path, **settings: Any) -> dict[str, Any]:
    source = StoredActivations(open_store(store))
    config = EvaluationConfig(**({"batch_tokens": 7} | settings))
    (results,) = evaluate(finished(run, world.device), source, tiny_lm, config, world)
    return results


def evaluated_on(world: World, run: Path, store: Path, settings: dict) -> dict[str, Any]:
    return evaluated(world, run, store, **settings)


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """The leaves of nested dicts and lists, by their path."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {path: value}
    return {key: leaf for k, v in value.items() for key, leaf in flat(v, f"{path}/{k}").items()}


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert flat(found).keys() == flat(expected).keys()
    for key, value in flat(expected).items():
        # a ratio of two small differences of losses
        tolerance = 1e-3 if key.endswith(("loss_recovered", "kl_score")) else 1e-6
        close = pytest.approx(value, tolerance, 1e-6) if isinstance(value, float) else value
        assert flat(found)[key] == close, key


def undocumented(value: Any, names: set[str]) -> set[str]:
    """Keys, at any depth, that `docs/evaluation.md` does not name; `names` are data, not keys."""
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    said = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", page))))
    keys = {key for path in flat(value) for key in path.split("/") if re.match(r"[a-z]", key)}
    return keys - names - said


def test_the_figures_are_those_of_the_held_out_tokens(
    store: Path, expected: dict[str, Any]
) -> None:
    results = json.loads(json.dumps(expected, allow_nan=False))
    assert undocumented(results, set(CODERS)) == set()
    source = open_store(store)
    held_out = [source.read_tokens(sequences)[1] for sequences in source.held_out]
    assert results["sequences"] == sum(len(trainable) for trainable in held_out) == 12
    assert results["tokens"] == sum(int(trainable.sum()) for trainable in held_out)
    assert results["store"]["manifest"] == source.hash
    assert results["lm"] == {"name": "tiny", "commit": "none"}
    assert list(results["rungs"]) == sorted(CODERS)
    for name, figures in results["rungs"].items():
        histogram = figures["firing_frequency"]
        assert histogram["never"] + sum(histogram["counts"]) == NUM_LATENTS[name]
        assert figures["dead_share"] == histogram["never"] / NUM_LATENTS[name]
        assert (figures["kind"], figures["form"]) == CODERS[name][:2]
        assert figures["delta_loss"] != 0
    assert results["rungs"]["topk-skip"]["l0"] == results["rungs"]["topk-skip"]["k"] == 5
    assert results["rungs"]["jumprelu"]["k"] is None


def test_the_ladder_is_read_from_the_rungs(measured: Path, expected: dict[str, Any]) -> None:
    rungs = expected["rungs"]
    laws = {(law["kind"], law["loss"]): law for law in expected["of_run"]["scaling"]["rows"]}
    assert laws.keys() == {(rung["kind"], of) for rung in rungs.values() for of in LOSSES}
    assert all("left_out" in law for law in laws.values())  # two rungs have no law
    (pair,) = expected["pairs"]
    by_latent = load_file(measured / pair["by_latent"])
    assert by_latent.keys() == {"max_cosine", "nearest", "mse_change"}
    assert len(by_latent["max_cosine"]) == NUM_LATENTS["jumprelu-wide"]
    assert int((by_latent["mse_change"] < 0).sum()) == pair["latents"]["novel"]
    rows = expected["of_run"]["forms"]["rows"]
    assert {row["group"] for row in rows} == {"48 latents, k = 5, layer 1"}
    assert [row["rung"] for row in rows] == ["batchtopk", "topk-skip"]
    for row in rows:
        assert row["ce_increase_percent"] == rungs[row["rung"]]["ce_increase_percent"]


def test_fidelity_is_that_of_the_coder_as_anyone_loads_it(
    measured: Path, store: Path, expected: dict[str, Any]
) -> None:
    figures = expected["rungs"]["topk-skip"]
    coder, x, y = load_coder(measured / "coders" / "topk-skip"), [], []
    for batch in StoredActivations(open_store(store)).held_out(
        ["mlp_in.1", "mlp_out.1"], HeldOutPart()
    ):
        x.append(batch.acts["mlp_in.1"][batch.trainable])
        y.append(batch.acts["mlp_out.1"][batch.trainable])
    y_TE, error_TE = torch.cat(y), torch.cat(y) - coder(torch.cat(x))
    fvu = error_TE.square().sum() / (y_TE - y_TE.mean(0)).square().sum()
    assert figures["fvu"] == pytest.approx(float(fvu), rel=1e-5)


def test_a_mesh_gives_the_same_figures(run: Path, store: Path, expected: dict[str, Any]) -> None:
    assert [pair["larger"] for pair in expected["pairs"]] == ["jumprelu-wide"]
    for found in run_on(4, evaluated_on, run, store, {"parallel": SharingConfig(latent=2)}):
        assert_same(found, expected)


def test_batches_of_any_size_give_the_same_figures(run: Path, store: Path) -> None:
    expected = evaluated(alone(), run, store, batch_tokens=4096)
    found = evaluated(alone(), run, store, batch_tokens=1)
    for results in (expected, found):
        for figures in results["rungs"].values():  # these say of themselves that they depend on it
            del figures["fvu_variants"]["batch_mean"], figures["fvu_variants"]["token_mean"]
    assert_same(found, expected)


def cut_otherwise(folder: Path, held_out: Tensor, chunk_mib: float) -> Store:
    """A store whose held-out sequences begin with these."""

    def write(name: str, acts: Tensor) -> Store:
        sites = dict.fromkeys(("resid_post.1", "mlp_in.1", "mlp_out.1"), acts)
        sizes = {"chunk_mib": chunk_mib, "shard_mib": 4 * chunk_mib, "held_out": 0.4}
        return write_store(folder / name, sites, dtype="float32", **sizes)  # type: ignore[arg-type]

    acts = torch.zeros(480, *held_out.shape[1:])
    runs = write("empty", acts).held_out
    acts[[number for run in runs for number in run][: len(held_out)]] = held_out
    return write("filled", acts)


def test_figures_do_not_depend_on_how_the_store_is_cut(run: Path, tmp_path: Path) -> None:
    held_out = torch.randn(30, 8, WIDTH, generator=torch.Generator().manual_seed(0))
    config = EvaluationConfig(max_sequences=30, batch_tokens=56)
    stores = [cut_otherwise(tmp_path / str(mib), held_out, mib) for mib in (0.004, 0.02)]
    assert len({store.layout.chunk_sequences for store in stores}) == 2
    found = []
    for cut in stores:
        shutil.rmtree(run / "evaluation", ignore_errors=True)
        source = StoredActivations(cut)
        found += evaluate(finished(run, CPU), source, None, config, alone())
    found = [results["rungs"] for results in found]
    assert found[0] == found[1]
    assert all(rung["fvu_variants"]["token_mean"] > 0 for rung in found[0].values())


def test_a_process_without_sequences_takes_part(run: Path, store: Path) -> None:
    bounds = {"max_sequences": 2, "lm_sequences": 1}
    expected = evaluated(alone(), run, store, **bounds)
    assert expected["sequences"] == 2
    for found in run_on(2, evaluated_on, run, store, bounds):
        assert_same(found, expected)


def test_without_a_language_model_its_figures_are_left_out(run: Path, tmp_path: Path) -> None:
    acts = torch.randn(300, WIDTH, generator=torch.Generator().manual_seed(0))
    sites = {"resid_post.1": acts, "mlp_in.1": acts, "mlp_out.1": acts * 2}
    path = tmp_path / "store"
    source = StoredActivations(write_store(path, sites, chunk_mib=0.005, shard_mib=0.02))
    shutil.rmtree(run / "evaluation", ignore_errors=True)
    (results,) = evaluate(finished(run, CPU), source, None, EvaluationConfig(), alone())
    assert results["clean_loss"] is None and results["lm"] is None
    for figures in results["rungs"].values():
        assert {"fvu", "l0"} <= figures.keys() and "delta_loss" not in figures
    no_passes = evaluated(alone(), run, path, lm_sequences=0)
    assert no_passes["clean_loss"] is None


def test_what_does_not_fit_is_refused(run: Path, store: Path, tmp_path: Path) -> None:
    narrow = save_random_coders(tmp_path / "narrow", width=WIDTH // 2)
    with pytest.raises(UserError, match=r"batchtopk wants mlp_in.1 of width 16; the store has"):
        evaluated(alone(), narrow, store)
    other = write_store(tmp_path / "store", {"embed": torch.ones(300, WIDTH)}, held_out=0.0)
    with pytest.raises(UserError, match="batchtopk wants mlp_in.1"):
        source = StoredActivations(other)
        evaluate(finished(run, CPU), source, None, EvaluationConfig(), alone())
    with pytest.raises(UserError, match="no coders in"):
        evaluated(alone(), tmp_path / "nothing", store)
    with pytest.raises(UserError, match="parallel.latent=2 must divide the 1 processes"):
        evaluated(alone(), run, store, parallel=SharingConfig(latent=2))
    with pytest.raises(UserError, match="^parallel.latent=5; expected a divisor of the 48 lat"):
        source = StoredActivations(open_store(store))
        finished(run, CPU)[0].require(source, EvaluationConfig(parallel=SharingConfig(latent=5)))
    with pytest.raises(UserError, match="^rungs=nobody; expected rungs of .*: batch"):
        evaluated(alone(), run, store, rungs=["nobody"])
    with pytest.raises(UserError, match=r"measures=\[0\]=fidelty|did you mean fidelity"):
        evaluated(alone(), run, store, measures=["fidelty"])
    with pytest.raises(UserError, match="found nothing to take measures=.'lm_loss'. of"):
        evaluated(alone(), run, store, measures=["lm_loss"], lm_sequences=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_sequences", 0), ("lm_sequences", -1), ("batch_tokens", 0), ("parallel.latent", 0)],
)
def test_settings_out_of_bounds_are_refused(run: Path, store: Path, name: str, value: int) -> None:
    is_inside = name == "parallel.latent"
    settings = {"parallel": SharingConfig(latent=value)} if is_inside else {name: value}
    with pytest.raises(UserError, match=f"^{name}={value}; expected at least {value + 1}"):
        evaluated(alone(), run, store, **settings)


@pytest.mark.parametrize(("name", "least"), [("sequences", 0), ("stitch_sequences", 1)])
def test_pairs_need_sequences(run: Path, store: Path, name: str, least: int) -> None:
    with pytest.raises(UserError, match=f"pairs.{name}={least - 1}; expected at least {least}"):
        evaluated(alone(), run, store, pairs=PairConfig(**{name: least - 1}))


@contextmanager
def killed_after(num_written: int) -> Iterator[list[str]]:
    """Let an evaluation write so many files of figures, whose names are given, and then end."""
    written: list[str] = []
    write = evaluator.write_figures

    def write_or_die(path: Path, *figures: Any) -> None:
        if len(written) == num_written:
            raise KeyboardInterrupt
        write(path, *figures)
        written.append(f"{path.parent.name}/{path.stem}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator, "write_figures", write_or_die)
        yield written


def test_a_killed_evaluation_goes_on_where_it_stopped(run: Path, store: Path) -> None:
    with killed_after(10**6) as every:
        expected = evaluated(alone(), run, store, **FEW)
    assert len(every) == len(set(every)) == 4 * 8 + 3 + 2
    for num_written in (1, 17, len(every) - 3):
        with killed_after(num_written) as first, pytest.raises(KeyboardInterrupt):
            evaluated(alone(), run, store, **FEW)
        with killed_after(10**6) as rest:
            found = gone_on_with(alone(), run, store, **FEW)
        assert first + rest == every
        assert found == expected


def test_what_is_there_is_not_measured_again(
    run: Path, store: Path, capsys: pytest.CaptureFixture
) -> None:
    expected = evaluated(alone(), run, store, **FEW)
    with killed_after(10**6) as written:
        assert gone_on_with(alone(), run, store, **FEW) == expected
    assert written == [f"evaluation/{name}" for name in ("scaling", "forms")]  # of figures alone
    with killed_after(10**6) as written:
        gone_on_with(alone(), run, store, **FEW | CHANGED)
    said = capsys.readouterr().err
    assert "measuring jumprelu/fidelity again: batch_tokens, max_sequences changed" in said
    assert "measuring jumprelu/similarity again: max_sequences changed" in said
    assert not {"jumprelu/lm_loss", "jumprelu/coder"} & set(written)
    other = save_random_coders(run.parent / "other", seed=1)
    shutil.rmtree(run / "coders" / "jumprelu")
    shutil.copytree(other / "coders" / "jumprelu", run / "coders" / "jumprelu")
    with killed_after(10**6) as written:
        gone_on_with(alone(), run, store, **FEW | CHANGED)
    assert {name.partition("/")[0] for name in written} == {
        *("jumprelu", "jumprelu--jumprelu-wide", "evaluation")
    }
    save_random_coders(run)


def test_some_measures_of_some_rungs(run: Path, store: Path) -> None:
    with killed_after(10**6) as written:
        results = evaluated(alone(), run, store, measures=["frequency"], rungs=["jumprel?"], **FEW)
    assert written == ["jumprelu/coder", "jumprelu/frequency"]
    assert results["rungs"].keys() == {"jumprelu"} and results["of_run"] == {}
    with killed_after(10**6) as written:
        results = gone_on_with(alone(), run, store, measures=["stitching"], **FEW)
    assert {name.partition("/")[2] for name in written} == {"coder", "fidelity", "stitching"}
    (pair,) = results["pairs"]
    assert "stitching" in pair and "roc" not in pair


def test_coders_of_one_width_are_held_at_once(
    run: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: weakref.WeakSet[Coder] = weakref.WeakSet()
    widths: list[set[int]] = []
    subject = Candidate.subject

    def counted(self: Candidate, *given: Any) -> Subject:
        gc.collect()
        made = subject(self, *given)
        alive.add(made.coder)
        widths.append({coder.config.num_latents for coder in alive})
        return made

    monkeypatch.setattr(Candidate, "subject", counted)
    evaluated(alone(), run, store, **FEW)
    assert widths == [{48}, {48}, {48}, {64}, {48}, {48, 64}]  # and at last a pair


def test_coders_of_two_runs_are_compared(run: Path, store: Path, tmp_path: Path) -> None:
    (expected,) = evaluated(alone(), run, store, **FEW)["pairs"]
    runs = []
    for name in ("jumprelu", "jumprelu-wide"):
        shutil.copytree(run / "coders" / name, tmp_path / f"part-{name}" / "coders" / name)
        runs += finished(tmp_path / f"part-{name}", CPU)
    source, config = StoredActivations(open_store(store)), EvaluationConfig(batch_tokens=7, **FEW)
    small, large = evaluate(runs, source, tiny_lm, config, alone())
    assert small["pairs"] == [] and small["rungs"].keys() == {"jumprelu"}
    (found,) = large["pairs"]
    assert found.pop("smaller") == "part-jumprelu/jumprelu"
    path = tmp_path / "part-jumprelu-wide" / found.pop("by_latent")
    assert load_file(path).keys() == {"max_cosine", "nearest", "mse_change"}
    assert found == {key: expected[key] for key in expected if key not in ("smaller", "by_latent")}


class NumLatents(Description):
    """A measure of another package."""

    name = "num_latents"

    def result(self) -> dict[str, Any]:
        """One figure."""
        return {"their_figure": self.subject.coder.config.num_latents}


def test_another_package_brings_a_measure(
    run: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = EntryPoint("num_latents", f"{__name__}:NumLatents", "sae_dist.measures")

    def forget() -> None:
        registry.measures.cache_clear()
        vars(registry.MEASURES).pop("_homes", None)

    monkeypatch.setattr("sae_dist.common.registry.entry_points", lambda group: [point])
    forget()
    try:
        results = evaluated(alone(), run, store, measures=["num_latents"], **FEW)
    finally:
        forget()
    found = {name: rung["their_figure"] for name, rung in results["rungs"].items()}
    assert found == NUM_LATENTS


def test_an_evaluation_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    about = tmp_path / "evaluation" / "about.json"
    assert read_evaluation(tmp_path) is None
    about.parent.mkdir()
    for text, said in (("{", "unreadable .JSONDecodeError"), ('{"version": 3}', "has version 3")):
        about.write_text(text)
        with pytest.raises(UserError, match=said):
            read_evaluation(tmp_path)
