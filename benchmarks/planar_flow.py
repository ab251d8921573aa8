"""Planar flows, forward, log-determinant and backward: ours against normflows'.

    python -m benchmarks.planar_flow [--seconds 60] [--threads 2] [--json FILE]

Wants normflows, which nothing else does: ``pip install --no-deps normflows==1.7.3``, as
``make bench`` has done already.
In float32, K layers of the same planes, a loss that needs both z_K and log |det|, its
gradients by the points and all parameters; the median of several passes, taken in turns
in one process. The error is that of z_K: the log-determinant of normflows 1.7.3 has u
where û is due, so that log-determinants and gradients differ.
"""

import itertools
from functools import partial

import torch
from normflows.flows import Planar
from torch import Tensor, nn

from benchmarks import side_by_side
from latent_scattering.planar_flow import PlanarFlow

CASES = list(itertools.product((2, 20, 64), (5, 20), (128, 4096)))  # d, K, batch


class Theirs(nn.ModuleList):
    """normflows' layers, one after the other."""

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return z_K and the log-determinant."""
        total = z.new_zeros(len(z))
        for layer in self:
            z, log_det = layer(z)
            total = total + log_det
        return z, total


def train(flow: nn.Module, z: Tensor) -> None:
    z_K, log_det = flow(z)
    (z_K.square().sum() / 2 - log_det.sum()).backward()


def measure(d: int, K: int, batch: int, budget: float) -> dict:
    torch.manual_seed(0)
    ours = PlanarFlow(d, K, seed=0)
    with torch.no_grad():
        ours.planes.add_(0.1 * torch.randn_like(ours.planes))
    u, w, b = ours.planes.detach().clone().split([d, d, 1], 1)
    theirs = Theirs(Planar(d, u=u[k, None], w=w[k, None], b=b[k]) for k in range(K))
    z = torch.randn(batch, d, device=side_by_side.DEVICE, requires_grad=True)
    flows = {"ours": ours, "normflows": theirs}
    for flow in flows.values():
        flow.to(side_by_side.DEVICE)
    for flow in flows.values():  # warm-up
        train(flow, z)
    with torch.no_grad():
        error = ours(z)[0] - theirs(z)[0]
        relative_error = float(error.norm() / theirs(z)[0].norm())
    passes = {name: partial(train, flow, z) for name, flow in flows.items()}
    seconds = side_by_side.medians(passes, budget)
    return {
        "d": d,
        "K": K,
        "batch": batch,
        "seconds": seconds,
        "ratio": seconds["normflows"] / seconds["ours"],
        "relative_error": relative_error,
    }


def main() -> None:
    given = side_by_side.arguments(__doc__, 60)
    results = [measure(*case, given.seconds / len(CASES)) for case in CASES]
    table = [
        {
            "case": f"d={r['d']}, K={r['K']}, batch {r['batch']:,}",
            "ours, ms": 1000 * r["seconds"]["ours"],
            "normflows, ms": 1000 * r["seconds"]["normflows"],
            "ratio": r["ratio"],
            "relative error": r["relative_error"],
        }
        for r in results
    ]
    side_by_side.report(given, results, table, ("", ".2f", ".2f", ".1f", ".1e"))


if __name__ == "__main__":
    main()
