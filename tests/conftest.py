"""What the tests share."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from latent_scattering import paths, training
from latent_scattering.datasets import idx


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small networks wait for threads longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Called, it makes every further training an AssertionError."""

    def refuse(*arguments: object, **more: object) -> None:
        raise AssertionError("trained again")

    return lambda: monkeypatch.setattr(training, "fit", refuse)


@pytest.fixture
def interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[ModuleType, str, int], list[int]]:
    """Called with a module, its loss and n, it has batch n interrupt a training.

    Returns a list of as many entries as batches were tried. Every epoch is saved.
    """

    def arrange(module: ModuleType, name: str, n: int) -> list[int]:
        loss, batches = getattr(module, name), []

        def interrupting(*arguments: object) -> object:
            batches.append(1)
            if len(batches) == n:
                raise KeyboardInterrupt
            return loss(*arguments)

        monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
        monkeypatch.setattr(module, name, interrupting)
        return batches

    return arrange


@pytest.fixture
def mnist_root() -> Path:
    """The folder of the data sets, where it has MNIST."""
    return _root("mnist")


@pytest.fixture
def fashion_mnist_root() -> Path:
    """The folder of the data sets, where it has Fashion-MNIST."""
    return _root("fashion-mnist")


def _root(name: str) -> Path:
    root = paths.data()
    folder = root / idx.FOLDERS[name] / "raw"
    stems = idx.SHA256[name]
    if all((folder / s).exists() or (folder / f"{s}.gz").exists() for s in stems):
        return root
    reason = f"{folder} has not the four files of {name}; set LATENT_SCATTERING_DATA"
    if os.environ.get("CI"):
        pytest.fail(f"{reason} (under CI this is never skipped)")
    pytest.skip(reason)
