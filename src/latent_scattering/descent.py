"""Images from their scattering coefficients alone, by descent: no network, no training.

Angles & Mallat (section 4) expect the scattering to be invertible where it has more
coefficients than the image has pixels, and say that experiments indicate it.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from latent_scattering.errors import ParameterError
from latent_scattering.scattering import Scattering2D

NOISE = 0.01  # deviation of what the first image is more than grey


def invert(
    S: Scattering2D,
    coefficients: Float[Tensor, "c K m n"],
    *,
    n_iterations: int,
    seed: int,
) -> Float[Tensor, "c M N"]:
    """Return the image x that minimises ‖S(x) − coefficients‖², as far as descent goes.

    L-BFGS (Liu & Nocedal 1989) from grey with a little noise, at which the gradient is
    not zero. The problem is not convex: where it ends elsewhere than the image that the
    coefficients were taken of, these need not be to blame.

    Parameters
    ----------
    S
        The scattering.
    coefficients
        Of one image, channel by channel.
    n_iterations
        At least 1; fewer are made where the descent has come to rest.
    seed
        ≥ 0. Of the first image.

    Returns
    -------
    Tensor
        On the scale of the image, [0, 1]; not clipped.

    Raises
    ------
    ParameterError
        If `n_iterations` < 1.
    """
    if n_iterations < 1:
        raise ParameterError(f"n_iterations={n_iterations}: at least 1 is allowed")
    noise = torch.Generator().manual_seed(seed)
    first = 0.5 + NOISE * torch.randn(len(coefficients), *S.shape, generator=noise)
    x = first.to(coefficients).requires_grad_()
    optimiser = torch.optim.LBFGS(
        [x],
        max_iter=n_iterations,
        max_eval=2 * n_iterations,
        history_size=20,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def error() -> Tensor:
        optimiser.zero_grad()
        squares = (S(x) - coefficients).square().sum()
        squares.backward()
        return squares

    optimiser.step(error)
    return x.detach()
