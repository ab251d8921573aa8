"""How fast a training is, beside the limit that matrix products set on its machine."""

import copy
import time

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

TURNS = 5


def operations(network: nn.Module, d: int) -> float:
    """Return the operations of a training step, forward and backward, for one code.

    Real additions and multiplications of matrix products and convolutions, as the
    network makes them; nothing is computed. The network takes codes of dimension d.
    """
    shapes = copy.deepcopy(network).to("meta")
    codes = torch.empty(2, d, device="meta")  # batch norm wants more than one
    with FlopCounterMode(display=False) as counter:
        shapes(codes).sum().backward()
    return counter.get_total_flops() / len(codes)


@torch.no_grad()
def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations a second of a product of large square matrices.

    That of the fastest of a few, as other work on the machine only slows them down.
    """
    side = 8192 if device.type == "cuda" else 1024
    noise = torch.Generator(device).manual_seed(0)
    a = torch.randn(side, side, generator=noise, device=device).to(dtype)
    seconds = []
    for _ in range(TURNS):
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":  # which only begins what it is asked for
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)
