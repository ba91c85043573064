"""A step that is recorded once as a CUDA graph, and from then on replayed: one launch for all."""

import torch
from torch import Tensor

from sae_dist.common.errors import UserError
from sae_dist.train.rows import SharedRows
from sae_dist.train.rung import Rung
from sae_dist.train.schedules import learning_rate
from sae_dist.train.step import StepResult, take_step

_WARM_UP = 3  # steps, in which kernels are compiled and chosen


class GraphedStep:
    """`training_step` of one rung on a GPU, whose kernels no host launches one by one.

    Batches are copied to where the first one was recorded, and the learning rate is written beside
    them; all else that changes is on the device already. The tensors of a result are those of the
    recording: the next step writes them again.

    Args:
        rung: on a mesh of one process, of a kind that `has_fixed_shapes`.

    Raises:
        UserError: another rung.
    """

    def __init__(self, rung: Rung) -> None:
        num_processes = rung.mesh.data.size * rung.mesh.latent.size
        if not rung.config.coder.has_fixed_shapes or num_processes > 1:
            raise UserError(
                f"cuda_graph=true and rung {rung.name} on {num_processes} processes; expected a "
                "TopK without AuxK, of k ≤ 512, on one; leave out cuda_graph"
            )
        self.rung = rung
        self._acts: dict[str, Tensor] = {}
        self._lr = torch.zeros((), device=rung.progress.counts_3.device)
        self._num_taken = 0
        self._apart: torch.cuda.Stream | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: StepResult | None = None

    def __call__(self, acts: dict[str, Tensor], step: int, num_steps: int) -> StepResult:
        """Take a step on raw activations [B, D] by site, all of one shape, in a run's order."""
        self.put(acts, step, num_steps)
        self._num_taken += 1
        if self._num_taken <= _WARM_UP:
            return self._warm_up()
        if self._graph is None:  # other threads may copy meanwhile
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._result = self.take()
        self._graph.replay()
        assert self._result is not None
        return self._result

    def put(self, acts: dict[str, Tensor], step: int, num_steps: int) -> None:
        """Write a batch and the rate of a step where `take` reads them."""
        config = self.rung.config
        for site in {config.site, config.target}:
            if site not in self._acts:
                self._acts[site] = torch.empty_like(acts[site])
            self._acts[site].copy_(acts[site])
        self._lr.fill_(learning_rate(config.optim, config.coder.num_latents, step, num_steps))

    def take(self) -> StepResult:
        """Take the step, as it is recorded."""
        rows = SharedRows(self._acts, self.rung.coder.W_enc.dtype)
        return take_step(self.rung, rows, self._lr, self.rung.config.coder, 0.0)

    def _warm_up(self) -> StepResult:
        """Take the step on a stream of its own, as a recording asks for."""
        self._apart = self._apart or torch.cuda.Stream()
        stream = torch.cuda.current_stream()
        self._apart.wait_stream(stream)
        with torch.cuda.stream(self._apart):
            result = self.take()
        stream.wait_stream(self._apart)
        return result
