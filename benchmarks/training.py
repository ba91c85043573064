"""Runs of programs that train, and the one evaluation of what they wrote."""

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.run import run_json
from sae_dist.coders import Coder, CoderConfig, Kind
from sae_dist.evaluate import Fidelity, Subject, run_coder
from sae_dist.parallel import World, make_mesh

_MODULES = {
    "sae_dist": "sae_dist",
    "sparsify": "sparsify",
    "dictionary_learning": "dictionary_learning",
    "SAELens": "sae_lens",
    "Llamascopium": "llamascopium",
}
_SECONDS = 900
_BATCH = 4096


class Trainer:
    """Trains on one file of activations, evaluates on its held-out part, remembers every run.

    Args:
        data: written by `write_activations`.
        peers_python: the interpreter that has the peers.
        world: of this process alone.
        k: what TopK coders keep.

    Attributes:
        runs: each with program, kind, setting, aim, seed, l0, fvu and seconds.
        failed: why a run gave nothing, by its name.
    """

    def __init__(self, data: Path, peers_python: Path, world: World, k: int) -> None:
        self.data, self.peers_python, self.world, self.k = data, peers_python, world, k
        self.held_out_MD = load_file(data)["held_out"]
        self.runs: list[dict[str, Any]] = []
        self.failed: dict[str, str] = {}

    def run(
        self, program: str, kind: str, setting: str, aim: float, seed: int = 0
    ) -> dict[str, Any] | None:
        """Train one coder and measure it; None if that failed."""
        weights = self.data.with_name("weights.safetensors")
        python = sys.executable if program == "sae_dist" else str(self.peers_python)
        module = f"benchmarks.trained.{_MODULES[program]}"
        command = [python, "-W", "ignore", "-m", module, "--kind", kind, "--setting", setting]
        command += ["--data", str(self.data), "--to", str(weights), "--aim", str(aim)]
        command += ["--seed", str(seed)]
        result = run_json(command, _SECONDS)
        name = f"{program} {kind} {setting} {aim:.3g}, seed {seed}"
        if isinstance(result, str):
            self.failed[name] = result
            print(f"{name}: {result}", flush=True)
            return None
        about = {"program": program, "kind": kind, "setting": setting, "aim": aim, "seed": seed}
        run = about | self.measure(load_file(weights)) | result
        self.runs.append(run)
        print(f"{name}: L0 {run['l0']:.2f}, FVU {run['fvu']:.4f}", flush=True)
        return run

    @torch.no_grad()
    def measure(self, weights: dict[str, Tensor]) -> dict[str, float]:
        """L0 and FVU on the held-out rows: those of `sae_dist.evaluate`, for every program."""
        coder = as_coder(weights, self.k).to(self.world.device)
        mesh = make_mesh(self.world, 1, {})
        fidelity = Fidelity(Subject(coder=coder, mesh=mesh, num_positions=1))
        for x_BD in self.held_out_MD.split(_BATCH):
            x_1BD = x_BD.to(self.world.device)[None]
            everything = torch.ones(x_1BD.shape[:2], dtype=torch.bool, device=x_1BD.device)
            fidelity.update(run_coder(coder, x_1BD, x_1BD, everything))
        result = fidelity.result()
        return {"l0": result["l0"], "fvu": result["fvu"]}


def as_coder(weights: dict[str, Tensor], k: int) -> Coder:
    """The coder of some weights: by their threshold a JumpReLU, without one a TopK."""
    num_latents, d_in = weights["W_enc"].shape
    kind = Kind.jumprelu if "threshold" in weights else Kind.topk
    config = CoderConfig(kind=kind, num_latents=num_latents, k=k)
    coder = Coder(config, d_in, d_in, pre_bias=False).eval()
    coder.load_state_dict(weights)
    return coder
