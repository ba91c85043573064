"""A ladder: the rungs that one stream of activations trains, each on its own mesh."""

from dataclasses import asdict, replace
from typing import Any

from sae_dist.coders import long_tokens, mean_to_spread
from sae_dist.common.errors import UserError
from sae_dist.common.hooks import site_of
from sae_dist.common.joint import joined, parts_of, width_of
from sae_dist.common.log import log_info
from sae_dist.common.names import require_plain
from sae_dist.parallel import MachineConfig, World, choose_mesh, make_mesh
from sae_dist.stream import ActivationSource
from sae_dist.train.config import Precision, RungConfig
from sae_dist.train.optimizers import update_cost
from sae_dist.train.rung import Rung

_SAMPLE_TOKENS = 8192
_LONG, _MOST_OF_SQUARES, _FEW = 8, 0.1, 0.02  # times the median; shares of E‖x‖² and of the tokens


def build_ladder(
    configs: list[RungConfig],
    source: ActivationSource,
    world: World,
    batch_tokens: int,
    precision: Precision,
    machine: MachineConfig,
) -> list[Rung]:
    """Place each rung on its mesh, with weights still to be given; called by all processes.

    How many processes a node has is the launcher's word, or where it says nothing the machine's.

    Raises:
        UserError: a site the source does not have, a width that fits no mesh, or names that are
            equal or no folder's.
    """
    names = [config.name for config in configs]
    for name in names:
        require_plain("rung", name)
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"rungs of one name: {', '.join(repeated)}; give each its own `name`")
    machine = replace(machine, devices_per_node=world.per_node or machine.devices_per_node)
    meshes: dict[int, Any] = {}
    rungs = []
    for config in configs:
        d_in, d_out = (_width(source, site) for site in (config.site, config.target))
        sizes = config.coder, d_in, d_out, batch_tokens
        update = update_cost(config.optim, config.coder, d_in, d_out)
        latent = choose_mesh(config.parallel, machine, world.size, *sizes, update)
        mesh = make_mesh(world, latent, meshes)
        mean_squares = {site: source.mean_square(site) for site in sites_of([config])}
        rungs.append(Rung(config, mesh, mean_squares, d_in, d_out, precision, world.device))
        log_info(
            f"  {config.name}: {d_in} → {config.coder.num_latents} → {d_out} on {mesh} data×latent"
        )
    return rungs


def initialise(rungs: list[Rung], source: ActivationSource, seed: int) -> dict[str, float]:
    """Give all rungs their first weights: from one sample of the source, or from other coders.

    Returns:
        γ (see `mean_to_spread`) of each rung's input, by its name; told of each site, too, as are
        a few tokens (`long_tokens`) that outweigh the others.
    """
    sample = source.sample(sites_of([rung.config for rung in rungs]), _SAMPLE_TOKENS, seed)
    inputs = dict.fromkeys(rung.config.site for rung in rungs)
    gammas = {site: float(mean_to_spread(joined(sample, site).float())) for site in inputs}
    for site, gamma in gammas.items():
        log_info(f"  {site}: mean / spread γ = {gamma:.3g}")
    for site, x_ND in sample.items():
        few, of_squares = long_tokens(x_ND, _LONG)
        if few < _FEW and of_squares > _MOST_OF_SQUARES:
            log_info(
                f"  {site}: {few:.2%} of the tokens, longer than {_LONG} times the median, are "
                f"{of_squares:.0%} of E‖x‖²; harvest with writer.max_norm={_LONG} to leave these "
                "attention sinks out"
            )
    for rung in rungs:
        x_ND, y_NE = (joined(sample, s).float() for s in (rung.config.site, rung.config.target))
        rung.initialise(seed, x_ND.to(rung.coder.b_dec.device), y_NE.to(rung.coder.b_dec.device))
    return {rung.name: gammas[rung.config.site] for rung in rungs}


def sites_of(configs: list[RungConfig]) -> list[str]:
    """All sites that the rungs read, each once, sorted; those side by side one by one."""
    read = (site for config in configs for site in (config.site, config.target))
    return sorted({part for site in read for part in parts_of(site)})


def describe(configs: list[RungConfig]) -> dict[str, dict[str, Any]]:
    """Each rung's configuration as plain data, by name."""
    return {config.name: asdict(config) for config in configs}


def _width(source: ActivationSource, site: str) -> int:
    width = width_of(source.widths, site)
    if width is None:
        meant = f"; that is {site_of(site)} here" if site_of(site) in source.widths else ""
        raise UserError(
            f"the store has no site {site!r}; it has {', '.join(sorted(source.widths))}: "
            f"set site=… (and target=… for a transcoder) to one of them{meant}"
        )
    return width
