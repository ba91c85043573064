r"""Finetune the coders of a run on what their language model loses by them.

    sae-dist finetune run=NAME to=NEW
    torchrun --nproc-per-node 8 -m sae_dist finetune run=NAME to=NEW "rungs=[topk-*]" tokens=25M

The language model reads the tokens of the store's training units anew, and the coder's output is
put in the place of what it reconstructs: the loss is the coder's own and KL(clean ‖ spliced), each
as large as the other (arXiv 2503.17272). Writes `runs/NEW` as training does, and to its
`finetune.json` the delta loss before and after. Start the same command again to go on where it
stopped.
"""

from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml

from sae_dist.apps.command import command, entry
from sae_dist.apps.harvested import is_spread, load_harvested
from sae_dist.apps.runs import coders_of, finished_run, run_folder, source_of
from sae_dist.apps.sources import open_stores
from sae_dist.checkpoint.ranks import on_first_rank
from sae_dist.coders.files import config_of
from sae_dist.common.errors import UserError
from sae_dist.common.figures import shown
from sae_dist.common.files import read_json, write_atomic, write_json
from sae_dist.common.log import log_info
from sae_dist.common.patterns import rungs_asked_for
from sae_dist.config import FinetuneConfig, Source
from sae_dist.evaluate import EvaluationConfig
from sae_dist.evaluate.in_training import lm_figures
from sae_dist.finetune import Finetuning, TrainingTokens
from sae_dist.parallel import start_world
from sae_dist.train import Adam, RungConfig, Watch, ending_signals

_RISE = 20  # of so many steps one
_FIGURES, _DELTA = "finetune.json", "validation/delta_loss"


@command
def finetune(config: FinetuneConfig) -> Path:
    """Finetune coders; called by every process that `torchrun` started, or by one alone.

    Returns:
        The new run's folder; its coders are in `coders/`.

    Raises:
        Preempted: a signal asked to end, and a checkpoint has been saved.
    """
    folder, trained = finished_run(config.runs, config.run)
    to = run_folder(config.runs, config.to)
    where = source_of(trained, config.store, config.run)
    if where.source is not Source.stored:
        raise UserError(
            f"run={config.run} was trained on source={where.source}; expected a store, whose "
            "tokens are read anew; train one on a store of the language model"
        )
    where.max_shard_gib, where.cache = config.max_shard_gib, config.cache
    rungs = _rungs(config, folder)
    with start_world() as world, ending_signals(), Watch(world, config.watch) as watch:
        source = TrainingTokens(open_stores(where))
        harvested = source.about.get("lm")
        if harvested is None or is_spread(harvested, world.size):
            raise UserError(
                f"found {'no language model' if harvested is None else 'one over all processes'} "
                "in the store; expected one that each process holds; harvest with one"
            )
        lm = cache(
            partial(
                load_harvested,
                harvested,
                config.lm_name,
                world.device,
                trust_remote_code=config.lm_trust_remote_code,
            )
        )
        asked = EvaluationConfig(lm_sequences=config.evaluate_lm_sequences)
        measure = lm_figures(source, lm, asked)
        run = Finetuning(config, rungs, source, world, to, watch, lm=lm)
        figures, path = read_json(to / _FIGURES) if (to / _FIGURES).is_file() else {}, to / _FIGURES
        for when, is_now in (("before", run.step == 0), ("after", True)):
            if when == "after":
                run.run()
            if is_now and when not in figures:
                watch.pause(f"measuring {when}")
                figures[when] = measure(run.rungs, run.step)
                on_first_rank(None, partial(_write, to, trained, config.to, figures))
    for name in figures["after"]:
        told = (figures.get(when, {}).get(name, {}).get(_DELTA) for when in ("before", "after"))
        log_info(f"  {name}: delta loss {' → '.join(shown(value, '.4f') for value in told)}")
    log_info(f"figures in {path}")
    return to


def _rungs(config: FinetuneConfig, folder: Path) -> list[RungConfig]:
    """The coders asked for, each to go on from."""
    described = coders_of(folder)
    num_steps = (config.tokens or 0) // config.batch_tokens
    rungs = []
    for name in rungs_asked_for(config.rungs, described, of=str(folder)):
        coder, about = config_of(described[name]["config"]), described[name]["about"]
        if coder.form.spans_sites:
            raise UserError(
                f"found {name}, a {coder.form.replace('_', ' ')}; expected coders of one site; "
                "choose others with rungs=[…]"
            )
        optim = Adam(
            lr=config.lr,
            beta1=0.9,
            warmup_steps=num_steps // _RISE,
            sparsity_warmup_steps=0,
            decay_share=1.0,
            clip_norm=1.0,
        )
        rungs.append(
            RungConfig(
                name=name,
                site=about["site"],
                target=about["target"],
                init_from=str(folder / "coders" / name),
                coder=coder,
                optim=optim,
                parallel=config.parallel,
            )
        )
    return rungs


def _write(to: Path, trained: dict[str, Any], name: str, figures: dict[str, Any]) -> None:
    """The figures, and where the coders' activations are, as training says it."""
    to.mkdir(parents=True, exist_ok=True)
    if trained:
        told = yaml.safe_dump(trained | {"run": name}, sort_keys=False)
        write_atomic(to / "config.yaml", told.encode())
    write_json(to / _FIGURES, figures)


main = entry("finetune")
