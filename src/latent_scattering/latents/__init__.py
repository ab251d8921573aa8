"""Models of the distribution of the codes z: one file a model, one way to fit them."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from jaxtyping import Float32
from torch import Tensor

from latent_scattering.errors import ParameterError
from latent_scattering.latents import (
    flow_matching,
    gan,
    gaussian,
    mixture,
    norm_matched,
    permuted,
    planar_vae,
    spline_flow,
    vae,
)
from latent_scattering.latents.latent import Latent, Maker, Options
from latent_scattering.store import Artefact, Store


class Model(NamedTuple):
    """How a model is fitted, and what can be chosen."""

    fit: Callable[..., Latent]
    options: type[Options]


MODELS = {
    "gaussian": Model(gaussian.fit, gaussian.Options),
    "norm-matched": Model(norm_matched.fit, Options),
    "permuted": Model(permuted.fit, Options),
    "mixture": Model(mixture.fit, mixture.Options),
    "spline-flow": Model(spline_flow.fit, spline_flow.Options),
    "flow-matching": Model(flow_matching.fit, flow_matching.Options),
    "vae": Model(vae.fit, vae.Options),
    "planar-vae": Model(planar_vae.fit, planar_vae.Options),
    "gan": Model(gan.fit, gan.Options),
}


def fit(
    name: str,
    z: Float32[Tensor, "n d"],
    *,
    seed: int,
    store: Store,
    inputs: Sequence[str],
    **options: Any,
) -> Latent:
    """Return a model of the distribution of z.

    Parameters
    ----------
    name
        One of `MODELS`.
    z
        Training codes, on the CPU; whitened.
    seed
        ≥ 0. Of whatever the fit draws.
    store
        Where it is kept.
    inputs
        Keys or digests that identify the codes.
    options
        See the ``Options`` of the model's file.

    Raises
    ------
    ParameterError
        If there is no such model or option, an option is out of range, or z has
        nothing or something that is not finite.
    TrainingError
        If the training diverges.
    """
    if name not in MODELS:
        raise ParameterError(f"model {name!r}: not one of {', '.join(MODELS)}")
    model = MODELS[name]
    known = [field.name for field in fields(model.options)]
    for option in options:
        if option not in known:
            which = f"it has {', '.join(known)}" if known else "it has none"
            raise ParameterError(f"{name} has no option {option!r}; {which}")
    if 0 in z.shape:
        raise ParameterError(f"codes of shape {tuple(z.shape)}: give at least one")
    faulty = ~z.isfinite().all(0)
    if faulty.any():
        column = int(faulty.nonzero()[0]) + 1
        raise ParameterError(f"column {column} has values that are not finite")
    chosen = model.options(**options)
    parameters = {**chosen.parameters(), "shape": list(z.shape), "seed": seed}

    def keep(make: Maker) -> Artefact:
        if getattr(chosen, "watch", None) is None:
            return store.get(name, parameters, make, inputs=inputs)
        tensors, record = make(None)
        return Artefact("", dict(tensors), dict(record))

    return model.fit(z, chosen, seed=seed, keep=keep)
