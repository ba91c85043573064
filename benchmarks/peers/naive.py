"""No peer: a plain dense torch step, autograd through z [B, F] and Adam(fused=True)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from benchmarks.timing import DEVICE, Case, threshold_for
from sae_dist.kernels import jumprelu, step

_BANDWIDTH, _SPARSITY = 0.001, 0.0006


class Naive(nn.Module):
    """The equations of a coder, written down."""

    def __init__(self, kind: str, num_latents: int, d_in: int, k: int) -> None:
        super().__init__()
        weight = normalize(torch.randn(num_latents, d_in, device=DEVICE), dim=1)
        self.kind, self.k = kind, k
        self.W_enc, self.W_dec = nn.Parameter(weight.clone()), nn.Parameter(weight)
        self.b_enc = nn.Parameter(torch.zeros(num_latents, device=DEVICE))
        self.b_dec = nn.Parameter(torch.zeros(d_in, device=DEVICE))
        self.threshold = nn.Parameter(torch.zeros(num_latents, device=DEVICE))

    def loss(self, x_BD: Tensor) -> Tensor:
        """Squared error, and JumpReLU's penalty."""
        z_BF = linear(x_BD - self.b_dec, self.W_enc, self.b_enc)
        acts_BF, penalty = z_BF, x_BD.new_zeros(())
        if self.kind == "jumprelu":
            acts_BF = jumprelu(z_BF, self.threshold, _BANDWIDTH)
            penalty = _SPARSITY * step(z_BF, self.threshold, _BANDWIDTH).sum(1).mean()
        elif self.kind == "topk":
            values, chosen = z_BF.relu().topk(self.k, dim=1, sorted=False)
            acts_BF = torch.zeros_like(z_BF).scatter(1, chosen, values)
        else:
            values, chosen = z_BF.relu().flatten().topk(self.k * len(x_BD), sorted=False)
            acts_BF = torch.zeros_like(z_BF).flatten().scatter(0, chosen, values).view_as(z_BF)
        error_BD = x_BD - (acts_BF @ self.W_dec + self.b_dec)
        return error_BD.pow(2).sum(1).mean() + penalty


def time_steps(case: Case) -> dict[str, float]:
    """Take the steps of its clock."""
    coder = Naive(case.kind, case.num_latents, case.d_in, case.l0)
    x_BD, l0 = case.sample_BD, float(case.l0)
    if case.kind == "jumprelu":
        with torch.no_grad():
            coder.threshold.fill_(threshold_for(linear(x_BD, coder.W_enc), case.l0))
    adam = torch.optim.Adam(coder.parameters(), lr=1e-5, fused=True)
    for batch_BD in case.clock:
        loss = coder.loss(batch_BD)
        adam.zero_grad()
        loss.backward()
        adam.step()
    if case.kind == "jumprelu":
        with torch.no_grad():
            z_BF = linear(x_BD - coder.b_dec, coder.W_enc, coder.b_enc)
            l0 = float((z_BF > coder.threshold).sum(1).float().mean())
    return {"l0": l0}
