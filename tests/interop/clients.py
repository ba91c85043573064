"""What the other libraries make of files: run by their own Python, without sae_dist.

python clients.py JOBS    where JOBS is a JSON file of {"client", "jobs", "versions"}

A job has `folder` and `x` (.npy, raw activations), and gets `out` (.npz: latents and outputs). With
`publish` the library first makes a coder of that sort itself and writes it there; with `repo` the
same files are at `path` on the Hub, and are loaded from there, too.
"""

import importlib.metadata
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Job = dict[str, Any]


def generic(module: torch.nn.Module, seed: int) -> None:
    """Fill a module with weights as of a trained coder, thresholds above 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            drawn = torch.randn(tensor.shape, generator=generator)
            scale = 1.0 if tensor.dim() == 1 else tensor.shape[-1] ** -0.5
            tensor.copy_(drawn.abs() * 3 if "threshold" in name else drawn * scale)


def require_equal(one: torch.nn.Module, other: torch.nn.Module) -> None:
    """The same class with the same weights."""
    assert type(one) is type(other)
    torch.testing.assert_close(dict(one.state_dict()), dict(other.state_dict()), rtol=0, atol=0)


def grow_old(folder: Path, settings: dict[str, Any], weights: str | None = None) -> None:
    """Settings as an older version wrote them; SAELens' had scaling factors of 1 as well."""
    (folder / "cfg.json").write_text(json.dumps(settings))
    if weights is not None:
        tensors = load_file(folder / weights)
        save_file(tensors | {"scaling_factor": torch.ones(settings["d_sae"])}, folder / weights)


def saelens(job: Job, x: Tensor) -> tuple[Tensor, Tensor]:
    from sae_lens import SAE
    from sae_lens.registry import get_sae_class

    if "publish" in job:
        sae_class, config_class = get_sae_class(job["publish"]["architecture"])
        made = sae_class(config_class.from_dict({**job["publish"], "device": "cpu"}))
        generic(made, job["seed"])
        made.save_model(job["folder"])
        if "older" in job["publish"]:
            grow_old(Path(job["folder"]), job["publish"]["older"], "sae_weights.safetensors")
    sae = SAE.load_from_disk(job["folder"])
    if "repo" in job:
        require_equal(sae, SAE.from_pretrained(job["repo"], job["path"]))
    if job.get("heads"):
        x = x.unflatten(-1, (job["heads"], -1))
    acts, y = sae.encode(x), sae(x)
    return acts, y.flatten(1)


def scope(job: Job, x: Tensor) -> tuple[Tensor, Tensor]:
    """By one of SAELens' loaders of what others have published, from the Hub."""
    from sae_lens.loading import pretrained_sae_loaders as loaders
    from sae_lens.registry import get_sae_class

    load = getattr(loaders, job["loader"])
    config, state, _ = load(job["repo"], job["path"], device="cpu", cfg_overrides=job["overrides"])
    config = loaders.handle_config_defaulting(config)
    sae_class, config_class = get_sae_class(config["architecture"])
    sae = sae_class(config_class.from_dict(config))
    sae.load_state_dict(state)
    if job.get("scale"):  # as `SAE.from_pretrained` does for releases that it knows
        sae.fold_activation_norm_scaling_factor(job["scale"])
    return sae.encode(x), sae(x)


def sparsify(job: Job, x: Tensor) -> tuple[Tensor, Tensor]:
    from sparsify import SparseCoder, SparseCoderConfig

    if "publish" in job:
        older = job["publish"].pop("older", None)
        job["publish"].pop("told", None)
        made = SparseCoder(x.shape[1], SparseCoderConfig(**job["publish"]))
        generic(made, job["seed"])
        made.save_to_disk(job["folder"])
        if older:
            grow_old(Path(job["folder"]), older)
    coder = SparseCoder.load_from_disk(job["folder"])
    if "repo" in job:
        require_equal(coder, SparseCoder.load_from_hub(job["repo"], hookpoint=job["path"]))
    top_acts, top_indices, pre_acts = coder.encode(x)
    acts = torch.zeros_like(pre_acts).scatter(1, top_indices, top_acts)
    return acts, coder(x).sae_out


def dictionary_learning(job: Job, x: Tensor) -> tuple[Tensor, Tensor]:
    from dictionary_learning import utils
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from huggingface_hub import snapshot_download

    if "publish" in job:
        name, k = job["publish"]["dict_class"], job["publish"].get("k")
        made_class, sizes = getattr(utils, name), [x.shape[1], job["num_latents"]]
        if made_class is MatryoshkaBatchTopKSAE:
            made = made_class(*sizes, k, [sizes[1] // 4, sizes[1] - sizes[1] // 4])
        else:
            made = made_class(*sizes, *([k] if k else []))
        generic(made, job["seed"])
        if "BatchTopK" in name:
            made.threshold.fill_(2.0)
        folder = Path(job["folder"])
        folder.mkdir(parents=True)
        torch.save(made.state_dict(), folder / "ae.pt")  # as its training loop does
        (folder / "config.json").write_text(json.dumps({"trainer": job["publish"], "buffer": {}}))
    ae, _ = utils.load_dictionary(job["folder"], device="cpu")
    if "repo" in job:
        folder = f"{snapshot_download(job['repo'])}/{job['path']}"
        require_equal(ae, utils.load_dictionary(folder, device="cpu")[0])
    y, acts = ae(x, output_features=True)
    return acts, y


CLIENTS: dict[str, tuple[str, Callable[[Job, Tensor], tuple[Tensor, Tensor]]]] = {
    "saelens": ("sae-lens", saelens),
    **dict.fromkeys(
        "gemma_scope gemma_scope_2 llama_scope qwen_scope goodfire circuit_tracer".split(),
        ("sae-lens", scope),
    ),
    "sparsify": ("eai-sparsify", sparsify),
    "dictionary_learning": ("dictionary-learning", dictionary_learning),
}


def main(path: Path) -> None:
    asked = json.loads(path.read_text())
    distribution, client = CLIENTS[asked["client"]]
    with torch.no_grad():
        for job in asked["jobs"]:
            acts, y = client(job, torch.from_numpy(np.load(job["x"])))
            np.savez(job["out"], acts=acts.numpy(), y=y.numpy())
    versions = {name: importlib.metadata.version(name) for name in (distribution, "torch")}
    path.with_suffix(".versions").write_text(json.dumps(versions))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
