"""How far the other libraries' latents and outputs are from ours, on the same raw activations.

    SAE_DIST_CLIENTS=PYTHON python -m tests.interop.measure    writes the tables of docs/interop.md

PYTHON is the interpreter of an environment that has the other libraries: `make test-interop` makes
one.
"""

import itertools
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_dist.coders import Coder, FiresBy, Form, fold, kind_names
from sae_dist.interop import format_named, format_names, load_coder
from tests.coders.kinds import FORMS, config_of_kind
from tests.interop import scopes
from tests.interop.hub import Hub, serving

FOREIGN = [name for name in format_names() if name != "sae_dist"]
DOCS = Path(__file__).resolve().parents[2] / "docs" / "interop.md"
BEGIN, END = "<!-- differences: begin -->\n", "<!-- differences: end -->\n"
D, E, F, K, ROWS, SCALE = 32, 24, 256, 8, 512, 20.0
NEAR = 1e-5  # of the largest pre-activation: nearer than that to the edge, rounding may decide
SAELENS = {  # by format and whether a transcoder's: its loader, and where that wants the files
    ("gemma_scope", False): (
        "gemma_2_sae_huggingface_loader",
        "local/gemma-scope-2b-pt-res",
        "layer_3/width_16k/",
    ),
    ("gemma_scope", True): (
        "gemma_2_transcoder_huggingface_loader",
        "local/gemma-scope-2b-pt-transcoders",
        "layer_3/width_16k/",
    ),
    ("gemma_scope_2", False): (
        "gemma_3_sae_huggingface_loader",
        "google/gemma-scope-2-1b-pt",
        "resid_post/layer_3_width_16k_",
    ),
    ("gemma_scope_2", True): (
        "gemma_3_sae_huggingface_loader",
        "google/gemma-scope-2-1b-pt",
        "transcoder/layer_3_width_16k_",
    ),
}


@dataclass
class Difference:
    """Of one coder, relative to the largest value, and entries that are active in one alone.

    Those near the edge of firing (`flips_near`) are told apart: rows that have any are left out of
    `reconstruction`.
    """

    client: str
    coder: str
    written_by: str
    latents: float
    reconstruction: float
    flips_near: int
    flips: int


def python() -> str | None:
    """The clients' Python, as make gives it."""
    found = os.environ.get("SAE_DIST_CLIENTS")
    return found and str(Path(found).absolute())


def activations() -> Tensor:
    """Raw activations [ROWS, D] with a mean, far from unit scale."""
    generator = torch.Generator().manual_seed(0)
    return SCALE * (torch.randn(ROWS, D, generator=generator) + 0.5)


def made(kind: str, form: Form, d_out: int) -> Coder:
    """A coder with generic weights, folded to raw activations."""
    generator = torch.Generator().manual_seed(1)
    coder = Coder(config_of_kind(kind, form=form, num_latents=F, k=K), D, d_out)
    with torch.no_grad():
        for tensor in coder.parameters():
            scale = 0.3 if tensor.dim() == 1 else tensor.shape[1] ** -0.5
            tensor.copy_(scale * torch.randn(tensor.shape, generator=generator))
        coder.W_dec /= coder.W_dec.norm(dim=1, keepdim=True)
        if "threshold" in (own := coder.state_dict()):
            own["threshold"].copy_(
                1.5 + 0.3 * torch.rand(own["threshold"].shape, generator=generator)
            )
    return fold(coder.eval(), SCALE)


def exports() -> list[tuple[str, str, Form, str]]:
    """Every format with every kind and form that it can hold, and sites for them."""
    cases = []
    for name, kind, form in itertools.product(FOREIGN, kind_names(), FORMS):
        coder = made(kind, form, width_out(name, form))
        about = {"site": "resid_post.3", "target": "mlp_out.3"}
        if format_named(name).unsupported_reason(coder.config, D, coder.d_out, about) is None:
            cases.append((name, kind, form, about["site"]))
    return [*cases, ("saelens", "jumprelu", Form.autoencoder, "attn_z.3")]


def width_out(name: str, form: Form) -> int:
    """Sparsify's outputs are as wide as its inputs."""
    return D if form is Form.autoencoder or name == "sparsify" else E


def published() -> list[tuple[str, dict[str, Any]]]:
    """What the libraries are asked to make and write themselves.

    With `older` those settings are put over what SAELens or sparsify writes today.
    """
    of_saelens = [{"architecture": name} for name in ("standard", "jumprelu", "gated")]
    topk = {"architecture": "topk", "k": K}
    of_saelens += [topk, {**topk, "rescale_acts_by_decoder_norm": True}]
    transcoders = "transcoder jumprelu_transcoder skip_transcoder jumprelu_skip_transcoder"
    own = {"d_out": E, "apply_b_dec_to_input": False}
    of_saelens += [{**own, "architecture": name} for name in transcoders.split()]
    of_sparsify = [{}, {"transcode": True}, {"transcode": True, "skip_connection": True}]
    before_1 = {"expansion_factor": F // D, "k": K, "signed": False, "d_in": D}
    of_sparsify.append({"older": before_1, "told": "topk, of 0.x"})
    relus = "AutoEncoder AutoEncoderNew GatedAutoEncoder JumpReluAutoEncoder".split()
    topks = "AutoEncoderTopK BatchTopKSAE MatryoshkaBatchTopKSAE".split()
    sizes = {"d_in": D, "d_sae": F, "dtype": "float32"}
    return [
        *(("saelens", {**sizes, **settings}) for settings in (*of_saelens, *older())),
        *(("sparsify", {"num_latents": F, "k": K, **settings}) for settings in of_sparsify),
        *(("dictionary_learning", {"dict_class": name}) for name in relus),
        *(("dictionary_learning", {"dict_class": name, "k": K}) for name in topks),
    ]


def of_scopes(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Coders that are only read here: files as their publishers have them, and the jobs of SAELens'
    loaders, which know repositories by name.
    """
    sizes = {"d_in": scopes.D, "d_sae": scopes.F, "dtype": "float32"}
    norms = {"in": 6.0, "out": 6.0}  # SAELens knows one norm, and takes decoder rows for unit ones
    made = scopes.llama_scope(folder / "llama_scope", norms, is_unit=True)
    path = "Llama3_1-8B-Base-L3R-8x"
    job = {"loader": "llama_scope_sae_huggingface_loader", "scale": scopes.D**0.5 / norms["in"]}
    job |= {"repo": "fnlp/Llama3_1-8B-Base-LXR-8x", "overrides": {"dtype": "float32"}}
    yield "llama_scope", {**job, "folder": made.path, "path": path, "prefix": f"{path}/"}
    made = scopes.qwen_scope(folder / "qwen_scope")
    job = {"loader": "qwen_scope_sae_huggingface_loader", "path": "layer3.sae.pt"}
    job |= {"repo": f"Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_{scopes.K}", "overrides": sizes}
    yield "qwen_scope", {**job, "folder": made.path, "prefix": ""}
    made = scopes.circuit_tracer(folder / "circuit_tracer", has_thresholds=False)
    values = {"d_model": scopes.D, "d_feature": scopes.F, "batch_size": scopes.K}
    wandb = {name: {"value": value} for name, value in values.items()}
    (made.path / "wandb-config.yaml").write_text(json.dumps(wandb))
    job = {"loader": "mwhanna_transcoder_huggingface_loader", "path": "layer_3.safetensors"}
    job |= {"overrides": {"architecture": "skip_transcoder"}, "prefix": ""}
    yield "circuit_tracer", {**job, "repo": "mwhanna/qwen3-4b-transcoders", "folder": made.path}
    made, name = scopes.goodfire(folder / "goodfire"), "Llama-3.1-8B-Instruct-SAE-l19"
    (made.path / "Llama-3.1-8B-Instruct-SAE-l3.pth").rename(made.path / f"{name}.pth")
    job = {"loader": "get_goodfire_huggingface_loader", "path": f"{name}.pth"}
    job |= {"repo": f"Goodfire/{name}", "overrides": sizes}
    yield "goodfire", {**job, "folder": made.path, "prefix": ""}


def older() -> list[dict[str, Any]]:
    """What SAELens makes today, and what older versions wrote beside such weights."""
    hook = {"hook_name": "blocks.3.hook_resid_post", "hook_layer": 3, "hook_head_index": None}
    sizes = {"d_in": D, "d_sae": F, "device": "cuda"}
    of_5 = {**sizes, **hook, "dtype": "torch.float32", "model_from_pretrained_kwargs": {}}
    of_5 |= {"finetuning_scaling_factor": False, "seqpos_slice": [None], "architecture": "standard"}
    relu = {"activation_fn_str": "relu", "activation_fn_kwargs": {}}
    topk = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
    of_2 = {**sizes, "hook_point": "blocks.3.hook_resid_post", "hook_point_layer": 3, "lr": 4e-4}
    of_2 |= {"hook_point_head_index": None, "dtype": "torch.float32", "expansion_factor": 8}
    of_2 |= {"sae_lens_version": "2.1.3", "normalize_activations": False, "noise_scale": 0.0}
    made: dict[str, Any] = {"architecture": "topk", "k": K}
    return [
        {**made, "older": {**of_5, **topk}, "told": "standard, its activation topk, of 5.x"},
        {**made, "older": {**of_5, **topk, "architecture": "topk"}, "told": "topk, of 5.x"},
        {**made, "older": {**of_2, "activation_fn": "topk", "activation_fn_kwargs": {"k": K}}}
        | {"told": "topk, of 2.x"},
        {"architecture": "standard", "older": of_2, "told": "standard, of 2.x"},
        {"architecture": "standard", "apply_b_dec_to_input": False, "told": "standard, no pre-bias"}
        | {"older": {**of_5, **relu, "apply_b_dec_to_input": False}},
        {"architecture": "jumprelu", "told": "jumprelu, of 5.x"}
        | {"older": {**of_5, **relu, "architecture": "jumprelu"}},
    ]


def measure(folder: Path) -> tuple[list[Difference], dict[str, str]]:
    """Write, let the clients read, and the other way round; their versions."""
    x_BD = activations()
    np.save(folder / "x.npy", x_BD.numpy())
    np.save(folder / "x-scopes.npy", scopes.x_BD().numpy())
    jobs: dict[str, list[dict[str, Any]]] = {name: [] for name in FOREIGN}
    for i, (name, kind, form, site) in enumerate(exports()):
        jobs[name].append(_written(folder / f"ours-{i}", name, kind, form, site))
    for i, (name, asked) in enumerate(published()):
        job = {"publish": asked, "coder": _told(asked), "seed": i, "num_latents": F}
        jobs[name].append({**job, "folder": str(folder / f"theirs-{i}")})
    for name, job in of_scopes(folder):
        own = {"coder": "as published", "x": str(folder / "x-scopes.npy")}
        jobs.setdefault(name, []).append({**job, **own, "folder": str(job["folder"])})
    versions: dict[str, str] = {}
    with serving() as hub:
        for job in (job for asked in jobs.values() for job in asked if "repo" in job):
            hub.commit(job["repo"], _files(Path(job["folder"]), job["prefix"]))
        for client, asked in jobs.items():
            for job in asked:
                job |= {"x": job.get("x", str(folder / "x.npy")), "out": f"{job['folder']}.npz"}
            versions |= _run(client, asked, folder, hub)
    found = [_difference(name, job) for name, asked in jobs.items() for job in asked]
    return found, versions


def _files(folder: Path, prefix: str) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {f"{prefix}{path.relative_to(folder)}": path.read_bytes() for path in found}


def _written(folder: Path, name: str, kind: str, form: Form, site: str) -> dict[str, Any]:
    """One of our coders in a format, and the job to read it."""
    coder = made(kind, form, width_out(name, form))
    is_transcoder = form is not Form.autoencoder
    about = {"site": site, "target": "mlp_out.3" if is_transcoder else site}
    format_named(name).write(folder, coder, about)
    widths = {"d_in": D, "d_sae": F, **({"d_out": coder.d_out} if is_transcoder else {})}
    heads = " (attn_z)" if site.startswith("attn_z") else ""
    loader, repo, start = SAELENS.get((name, is_transcoder), (None, f"me/{name}", ""))
    path = start + folder.name
    return {
        "folder": str(folder),
        "ours": [kind, form.value],
        "coder": f"{kind} {form.replace('_', ' ')}{heads}",
        "repo": repo,
        "path": path,
        "prefix": f"{path}/",
        "loader": loader,
        "overrides": widths if name == "gemma_scope" else None,
        "heads": 4 if heads else None,
    }


def _told(asked: dict[str, Any]) -> str:
    """A published coder's sort in a few words."""
    if "told" in asked:
        return str(asked["told"])
    for key in ("architecture", "dict_class"):
        if key in asked:
            return asked[key] + (", rescaled" if "rescale_acts_by_decoder_norm" in asked else "")
    flags = [key for key in ("transcode", "skip_connection") if asked.get(key)]
    return ", ".join(["topk", *flags])


def _run(client: str, jobs: list[dict[str, Any]], folder: Path, hub: Hub) -> dict[str, str]:
    """Let a client do its jobs, in a process of its own Python; its version and torch's."""
    path = folder / f"{client}.json"
    path.write_text(json.dumps({"client": client, "jobs": jobs}))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "PYTHON"))}
    settings = {**kept, **hub.environment(str(folder / "hf")), "OMP_NUM_THREADS": "1"}
    command = [python() or "", str(Path(__file__).with_name("clients.py")), str(path)]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise RuntimeError(f"{client}: {done.stderr[-3000:]}")
    return dict(json.loads(path.with_suffix(".versions").read_text()))


def _difference(client: str, job: dict[str, Any]) -> Difference:
    """What the client made of it beside what the coder does: ours as made, or as we read theirs."""
    if "ours" in job:
        kind, form = job["ours"][0], Form(job["ours"][1])
        coder = made(kind, form, width_out(client, form))
    else:
        coder = load_coder(job["folder"])
    x_BD = torch.from_numpy(np.load(job["x"]))
    theirs = {name: torch.from_numpy(v) for name, v in np.load(job["out"]).items()}
    z_BF = coder.pre_activations(x_BD)
    acts_BF, y_BE = coder.select(z_BF), coder(x_BD)
    is_near_BF = _distance(coder, z_BF) <= NEAR * z_BF.abs().max()
    is_flip_BF = (theirs["acts"] != 0) != (acts_BF != 0)
    is_same_BF = ~is_flip_BF
    is_clear_B = ~(is_flip_BF & is_near_BF).any(1)
    return Difference(
        client=client,
        coder=job["coder"],
        written_by="sae_dist" if "ours" in job else client,
        latents=_relative(theirs["acts"] * is_same_BF, acts_BF * is_same_BF),
        reconstruction=_relative(theirs["y"][is_clear_B], y_BE[is_clear_B]),
        flips_near=int((is_flip_BF & is_near_BF).sum()),
        flips=int((is_flip_BF & ~is_near_BF).sum()),
    )


def _distance(coder: Coder, z_BF: Tensor) -> Tensor:
    """From where a pre-activation begins to count: its threshold or its row's k-th largest."""
    weights = coder.state_dict()
    if coder.config.fires_by is FiresBy.rank:
        return (z_BF - z_BF.topk(coder.config.k, dim=1).values[:, -1:]).abs()
    if "r_mag" in weights:  # gated, of which both must be above 0
        magnitude_BF = weights["r_mag"].exp() * z_BF + weights["b_mag"]
        return torch.minimum(z_BF.abs(), magnitude_BF.abs())
    return (z_BF - weights.get("threshold", torch.zeros(()))).abs().to(z_BF.dtype)


def _relative(theirs: Tensor, ours: Tensor) -> float:
    assert theirs.shape == ours.shape and ours.abs().max() > 0
    return float((theirs - ours).abs().max() / ours.abs().max())


def tables(found: list[Difference], versions: dict[str, str]) -> str:
    """The tables of docs/interop.md."""
    told = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    text = f"{told}; {D} → {F} → {D} or {E}, k = {K}, {ROWS} rows of raw activations, float32.\n"
    text += "\nWritten by sae_dist, read by the client (a blank is refused); largest difference of"
    text += "\nlatents and of outputs, relative to the largest value:\n\n"
    text += _written_table([d for d in found if d.written_by == "sae_dist"])
    text += "\nWritten by the client, read by sae_dist and by the client; or in files as published,"
    text += "\nread by sae_dist and by SAELens' loader for them:\n\n"
    text += "| client | its coder | latents, outputs |\n|---|---|---|\n"
    theirs = (d for d in found if d.written_by != "sae_dist")
    rows = ([format_named(d.client).title, d.coder, _cell(d)] for d in theirs)
    return text + "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def _written_table(found: list[Difference]) -> str:
    by = {(d.client, d.coder): d for d in found}
    coders = sorted({d.coder for d in found})
    text = f"| coder | {' | '.join(format_named(name).title for name in FOREIGN)} |\n"
    text += "|---|" + "---|" * len(FOREIGN) + "\n"
    for coder in coders:
        cells = [_cell(by.get((name, coder))) for name in FOREIGN]
        text += f"| {coder} | {' | '.join(cells)} |\n"
    return text


def _cell(d: Difference | None) -> str:
    """Both differences, and flips where there are any; nothing where nothing was written."""
    if d is None:
        return ""
    flips = f", {d.flips + d.flips_near} flips" if d.flips + d.flips_near else ""
    return f"{_short(d.latents)}, {_short(d.reconstruction)}{flips}"


def _short(value: float) -> str:
    return f"{value:.0e}" if value else "0"


def main() -> None:
    """Measure, and write the tables between the markers of docs/interop.md."""
    with tempfile.TemporaryDirectory() as folder:
        found, versions = measure(Path(folder))
    before, _, rest = DOCS.read_text().partition(BEGIN)
    text = tables(found, versions)
    DOCS.write_text(before + BEGIN + "\n" + text + "\n" + END + rest.partition(END)[2])
    print(json.dumps([asdict(d) for d in found], indent=1))


if __name__ == "__main__":
    main()
