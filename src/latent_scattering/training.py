"""The one fit loop of all networks: Adam, checkpoints, exact resume, early stop."""

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from tqdm import tqdm

from latent_scattering import store
from latent_scattering.errors import ParameterError, TrainingError

# Of a network, a batch of each data tensor, and a source of noise: a scalar.
Loss = Callable[[nn.Module, tuple[Tensor, ...], torch.Generator], Tensor]

CHECKPOINT_SECONDS = 30.0  # at the least, between two checkpoints
CHECK_BATCHES = 50  # between two looks at the losses, each of which waits for a GPU


def fit(
    model: nn.Module,
    loss: Loss,
    data: tuple[Tensor, ...],
    *,
    n_epochs: int,
    batch_size: int,
    learning_rate: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    seed: int,
    fabric: Fabric | None = None,
    workspace: Path | None = None,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    monitor: str | None = None,
    patience: int = 0,
    min_delta: float = 0.0,
    label: str = "",
) -> pd.DataFrame:
    """Train a network in place, with Adam; return the history.

    An epoch visits every example once, in an order drawn from (seed, epoch), in
    ⌈n / batch_size⌉ batches of nearly equal size: no example is dropped, and no batch
    is tiny. The network ends in evaluation mode, on Fabric's device, with the weights
    of the last epoch (not those of the best).

    Parameters
    ----------
    model
        Trained in place. Its weights' initial values are the caller's.
    loss
        ``loss(model, batch, generator)``, a mean over the batch. It calls the model
        as ``model(...)``, and draws any noise from `generator`, which is seeded by
        (seed, epoch) and lives on the batch's device.
    data
        Tensors of the same length n, moved to the device as a whole.
    n_epochs, batch_size
        At least 1. With several processes, a batch is shared among them.
    learning_rate, betas
        Adam's step size, > 0, and the decay of its moments, in [0, 1).
    seed
        ≥ 0. Of the order of the examples and of the noise.
    fabric
        Chooses the device, the precision and the number of processes; by default one
        CUDA device where there is one, else the CPU, in float32. Launched already if
        it has several processes.
    workspace
        A folder for the checkpoint. It is written after an epoch if the last one is
        older than 30 seconds, and after the last epoch; a call that finds one goes on
        from there, to the very same weights on a CPU. (On a GPU, kernels that are not
        deterministic make a difference of rounding.)
    validate
        ``validate(model)``, called after each epoch in evaluation mode and without
        gradients; its numbers are columns of the history.
    monitor, patience, min_delta
        With patience > 0, stop once the number `monitor` has not risen by more than
        `min_delta` above its best for `patience` epochs.
    label
        Shown at the progress bar.

    Returns
    -------
    A row an epoch: ``epoch`` (from 1), ``loss`` (the mean over its batches, as they
    were trained), the numbers of `validate`, ``seconds`` and ``training_seconds``
    (cumulative; the latter without validation and checkpoints).

    Raises
    ------
    ParameterError
        If an argument is out of range, or the workspace holds the checkpoint of
        another training.
    TrainingError
        At the first loss, or the first weights, that are not finite. The network and
        the checkpoint are then those of the last epoch before.
    """
    n = _check(
        data, n_epochs, batch_size, learning_rate, betas, seed, monitor, patience
    )
    if fabric is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        fabric = Fabric(accelerator=device, devices=1)
    if batch_size < fabric.world_size:
        raise ParameterError(
            f"batch_size={batch_size}: at least the {fabric.world_size} processes"
        )
    # Convolutions are about twice as fast on a CPU with the channels last.
    model.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(model.parameters(), learning_rate, betas, fused=True)
    wrapped, wrapped_optimiser = fabric.setup(model, optimiser)
    data = tuple(tensor.to(fabric.device) for tensor in data)
    settings = {
        "n": n,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "betas": list(betas),
        "seed": seed,
        "processes": fabric.world_size,
        "precision": str(fabric.strategy.precision.precision),
    }
    checkpoint = workspace / "checkpoint" if workspace else None
    history = _resume(checkpoint, settings, model, optimiser)
    if len(history) > n_epochs:
        raise ParameterError(
            f"n_epochs={n_epochs}: {checkpoint} has {len(history)} epochs already; "
            "delete it or use another workspace"
        )
    saved, saved_at = len(history), time.perf_counter()
    n_batches = math.ceil(n / batch_size)

    with tqdm(  # on stderr; TQDM_DISABLE=1 silences it
        total=n_epochs * n_batches,
        initial=len(history) * n_batches,
        desc=label or None,
        unit="batch",
    ) as bar:
        while len(history) < n_epochs and not _stalled(
            history, monitor, patience, min_delta
        ):
            epoch = len(history) + 1
            start = time.perf_counter()
            model.train()
            good = copy.deepcopy((model.state_dict(), optimiser.state_dict()))
            try:
                mean = _epoch(
                    wrapped, wrapped_optimiser, loss, data, epoch, settings, fabric, bar
                )
            except TrainingError:
                model.load_state_dict(good[0])
                optimiser.load_state_dict(good[1])
                model.eval()
                if checkpoint and saved < len(history):
                    _save(checkpoint, settings, model, optimiser, history, fabric)
                raise
            trained = time.perf_counter()
            model.eval()
            numbers: dict[str, float] = {}
            if validate is not None and fabric.is_global_zero:
                with torch.no_grad():
                    numbers = {k: float(v) for k, v in validate(model).items()}
            # One process decides when to stop, for all.
            numbers = fabric.broadcast(numbers)
            if patience and monitor not in numbers:
                raise ParameterError(
                    f"monitor={monitor!r}: validate gives {', '.join(numbers)}"
                )
            last = history[-1] if history else {"seconds": 0, "training_seconds": 0}
            now = time.perf_counter()
            history.append(
                {
                    "epoch": epoch,
                    "loss": mean,
                    **numbers,
                    "seconds": last["seconds"] + now - start,
                    "training_seconds": last["training_seconds"] + trained - start,
                }
            )
            bar.set_postfix(_shown(epoch, n_epochs, mean, numbers))
            if checkpoint and now - saved_at > CHECKPOINT_SECONDS:
                _save(checkpoint, settings, model, optimiser, history, fabric)
                saved, saved_at = epoch, time.perf_counter()
    if checkpoint and saved < len(history):
        _save(checkpoint, settings, model, optimiser, history, fabric)
    model.eval()
    return pd.DataFrame(history)


def restored(model: nn.Module, made: store.Artefact) -> pd.DataFrame:
    """Give a network the weights that `fit` had made, now or once; return the history.

    It is then in evaluation mode, on CUDA's device where there is one.
    """
    model.load_state_dict(made.tensors)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return pd.DataFrame(made.record["history"])


def _check(
    data: tuple[Tensor, ...],
    n_epochs: int,
    batch_size: int,
    learning_rate: float,
    betas: tuple[float, float],
    seed: int,
    monitor: str | None,
    patience: int,
) -> int:
    """Return the number of examples; ParameterError for what is out of range."""
    lengths = [len(tensor) for tensor in data]
    if not lengths or lengths[0] == 0 or len(set(lengths)) > 1:
        raise ParameterError(
            f"data of lengths {lengths}: one or more tensors of one length are wanted"
        )
    for name, value, least in [
        ("n_epochs", n_epochs, 1),
        ("batch_size", batch_size, 1),
        ("seed", seed, 0),
        ("patience", patience, 0),
    ]:
        if value < least:
            raise ParameterError(f"{name}={value}: at least {least} is allowed")
    if not 0 < learning_rate < math.inf:
        raise ParameterError(f"learning_rate={learning_rate}: must be positive")
    if not all(0 <= beta < 1 for beta in betas):
        raise ParameterError(f"betas={betas}: both from 0 to below 1 are allowed")
    if patience and monitor is None:
        raise ParameterError(
            f"patience={patience}: monitor must name a number of validate"
        )
    return lengths[0]


def _epoch(
    model: Any,
    optimiser: Any,
    loss: Loss,
    data: tuple[Tensor, ...],
    epoch: int,
    settings: dict[str, Any],
    fabric: Fabric,
    bar: "tqdm[Any]",
) -> float:
    """Train one epoch; return its mean loss."""
    n, seed = settings["n"], settings["seed"]
    order = torch.randperm(n, generator=_generator(seed, epoch, 0)).to(fabric.device)
    noise = _generator(seed, epoch, 1 + fabric.global_rank, device=fabric.device)
    batches = order.tensor_split(math.ceil(n / settings["batch_size"]))
    losses = torch.zeros(len(batches), device=fabric.device)
    for i, indices in enumerate(batches):
        mine = indices[fabric.global_rank :: fabric.world_size]
        optimiser.zero_grad()
        value = loss(model, tuple(tensor[mine] for tensor in data), noise)
        fabric.backward(value)
        optimiser.step()
        losses[i] = value.detach()
        bar.update()
        if (i + 1) % CHECK_BATCHES == 0 or i + 1 == len(batches):
            # The loss of every process, so that all of them stop together.
            recent = slice(i // CHECK_BATCHES * CHECK_BATCHES, i + 1)
            shared = fabric.all_reduce(losses[recent], reduce_op="mean")
            assert isinstance(shared, Tensor)
            losses[recent] = shared
            bad = (~shared.isfinite()).nonzero()
            if len(bad):
                batch = recent.start + int(bad[0]) + 1
                _diverged(f"the loss is {float(losses[batch - 1])}", epoch, batch)
    if not all(p.isfinite().all() for p in model.parameters()):
        _diverged("some weights are not finite", epoch, len(batches))
    sizes = torch.tensor([len(b) for b in batches], dtype=torch.float64)
    return float((losses.double().cpu() * sizes).sum() / n)


def _diverged(what: str, epoch: int, batch: int) -> None:
    raise TrainingError(
        f"{what} at epoch {epoch}, batch {batch}: try a smaller learning_rate or "
        "another seed, and look for values in the data that are not finite"
    )


def _generator(
    seed: int, epoch: int, stream: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return a generator seeded by all three, so that resuming needs no state."""
    sequence = np.random.SeedSequence([seed, epoch, stream])
    mixed = int(sequence.generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(mixed)


def _stalled(
    history: list[dict[str, Any]],
    monitor: str | None,
    patience: int,
    min_delta: float,
) -> bool:
    best, since = -math.inf, 0
    if not patience or monitor is None:
        return False
    for value in (row[monitor] for row in history):
        rises = value > best + min_delta
        best, since = (value, 0) if rises else (best, since + 1)
    return since >= patience


def _shown(
    epoch: int, n_epochs: int, loss: float, numbers: dict[str, float]
) -> dict[str, str]:
    values = {k: f"{v:.4g}" for k, v in {"loss": loss, **numbers}.items()}
    return {"epoch": f"{epoch}/{n_epochs}", **values}


def _save(
    folder: Path,
    settings: dict[str, Any],
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    history: list[dict[str, Any]],
    fabric: Fabric,
) -> None:
    if not fabric.is_global_zero:
        return
    tensors = {f"model.{k}": t for k, t in store.state(model).items()}
    for i, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{i}.{k}": t for k, t in state.items()}
    store.write(folder, tensors, {"settings": settings, "history": history})


def _resume(
    folder: Path | None,
    settings: dict[str, Any],
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
) -> list[dict[str, Any]]:
    """Load the checkpoint, if there is one; return the history so far."""
    whole = store.read(folder) if folder else None
    if whole is None:
        return []
    tensors, manifest = whole
    if manifest["settings"] != settings:
        raise ParameterError(
            f"{folder} is of a training with {manifest['settings']}, not {settings}; "
            "delete it or use another workspace"
        )
    weights: dict[str, Tensor] = {}
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, key = name.partition(".")
        if kind == "model":
            weights[key] = tensor
        else:
            index, _, key = key.partition(".")
            states.setdefault(int(index), {})[key] = tensor
    model.load_state_dict(weights)
    optimiser.load_state_dict({**optimiser.state_dict(), "state": states})
    # The fused kernel reads weights and moments alike, so these need one layout.
    for weight, state in optimiser.state.items():
        for key, tensor in state.items():
            if tensor.shape == weight.shape:
                state[key] = torch.empty_like(weight).copy_(tensor)
    return list(manifest["history"])
