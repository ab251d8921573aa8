"""What the tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from latent_scattering import paths
from latent_scattering.datasets import idx


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small networks wait for threads longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
