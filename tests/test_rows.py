import shutil
from collections import namedtuple

import pytest
import torch

from latent_scattering import randomised, rows, whitening
from latent_scattering.rows import Rows

CPU = torch.device("cpu")


class Counted:
    """A stream of batches of 7, 7, … rows, that counts its calls."""

    def __init__(self, x):
        self.x, self.calls = x, 0

    def __call__(self):
        self.calls += 1
        yield from self.x.split(7)


@pytest.fixture
def x():
    noise = torch.Generator().manual_seed(0)
    return 50 + torch.randn(40, 20, generator=noise)


@pytest.mark.parametrize(
    # Relative to the mean, which is taken off: float16 of 50 would be off by .016.
    ("whole", "kind", "error"),
    [(3200, torch.float32, 1e-5), (3199, torch.float16, 2e-3)],
)
def test_are_computed_once_and_the_same_every_time(
    whole, kind, error, x, tmp_path, monkeypatch
):
    monkeypatch.setattr(rows, "BATCH", 320)
    monkeypatch.setattr(rows, "WHOLE", whole)
    compute = Counted(x)
    stream = Rows(compute, tuple(x.shape), folder=tmp_path, device=CPU)
    first, second, third = (torch.cat(list(stream())) for _ in range(3))
    assert compute.calls == 1
    assert first.equal(second) and first.equal(third)
    assert [len(batch) for batch in stream()] == [16, 16, 8]  # of 20 numbers
    torch.testing.assert_close(first, x, rtol=0, atol=error)
    assert first.dtype == torch.float32
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size == 800 * kind.itemsize


def test_an_iteration_that_is_given_up_does_not_count(x, tmp_path):
    compute = Counted(x)
    stream = Rows(compute, tuple(x.shape), folder=tmp_path, device=CPU)
    next(iter(stream()))
    assert len(torch.cat(list(stream()))) == 40
    assert compute.calls == 2
    assert torch.cat(list(stream())).equal(torch.cat(list(stream())))
    assert compute.calls == 2


def test_without_room_they_are_computed_each_time(x, tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(rows.SPARE))
    compute = Counted(x)
    stream = Rows(compute, tuple(x.shape), folder=tmp_path, device=CPU)
    first, second = (torch.cat(list(stream())) for _ in range(2))
    assert compute.calls == 2
    assert first.equal(second)
    assert not list(tmp_path.iterdir())


def test_float16_hardly_changes_the_whitening(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "WHOLE", 0)
    noise = torch.Generator().manual_seed(1)
    deviations = torch.logspace(0, -3, 60)
    x = 1 + torch.randn(500, 60, generator=noise) * deviations
    stream = Rows(Counted(x), (500, 60), folder=tmp_path, device=CPU)
    found = randomised.fit(stream, 20, seed=0)
    exact = whitening.fit([x], 20)
    torch.testing.assert_close(found.eigenvalues, exact.eigenvalues, rtol=1e-4, atol=0)
