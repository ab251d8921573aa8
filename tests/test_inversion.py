import math

import pytest
import torch

from latent_scattering import inversion, metrics
from latent_scattering.errors import ParameterError
from latent_scattering.generator import Generator
from latent_scattering.pixels import to_signed
from latent_scattering.store import Store

ARGUMENTS = {"n_epochs": 3, "batch_size": 16, "learning_rate": 1e-2, "seed": 0}


pytestmark = pytest.mark.usefixtures("one_thread")


def pairs(n=40, seed=0):
    """Codes, and 8×8 images that are a function of them."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 4, generator=generator)
    basis = torch.randn(4, 64, generator=torch.Generator().manual_seed(9))
    x = torch.sigmoid(z @ basis).view(n, 1, 8, 8)
    return (255 * x).to(torch.uint8), z


def fit(root, **changed):
    return inversion.fit(
        pairs(),
        pairs(10, seed=1),
        store=Store(root),
        inputs=["z"],
        **{**ARGUMENTS, **changed},
    )


def vector(model):
    return torch.cat([t.double().flatten() for t in model.state_dict().values()])


@pytest.mark.parametrize("variant", ["code", "text"])
def test_learns_to_invert(variant, tmp_path):
    made = fit(tmp_path, n_epochs=20, learning_rate=4e-3, variant=variant)
    x, z = pairs(10, seed=1)
    y = inversion.decode(made.generator, z)
    mean = to_signed(pairs()[0]).mean(0, keepdim=True).expand_as(y)
    best_constant = metrics.psnr(mean, to_signed(x))
    assert metrics.psnr(y, to_signed(x)) > best_constant + 1


def test_history_and_what_is_returned(tmp_path):
    made = fit(tmp_path)
    columns = ["epoch", "loss", "psnr_train", "psnr_test", "seconds"]
    assert list(made.history)[:5] == columns
    assert made.seconds == made.history.seconds.iloc[-1] > 0
    assert not any(m.training for m in made.generator.modules())
    for name, (pixels, z) in {"train": pairs(), "test": pairs(10, seed=1)}.items():
        psnr = metrics.psnr(inversion.decode(made.generator, z), to_signed(pixels))
        last = made.history[f"psnr_{name}"].iloc[-1]
        assert last == pytest.approx(psnr, abs=1e-4)


def test_loss_is_the_mean_absolute_error(tmp_path, monkeypatch):
    """One batch of all images: the loss is that of the initial network (eq. 1)."""
    made = fit(tmp_path, n_epochs=1, batch_size=40)
    pixels, z = pairs()
    sizes = {"widths": (32,), "kernel_size": 3}
    G = Generator(4, (1, 8, 8), **sizes, seed=ARGUMENTS["seed"])
    expected = (G(z) - (pixels / 127.5 - 1)).abs().sum() / (40 * 64)
    assert made.history.loss[0] == pytest.approx(expected.item(), rel=1e-5)


def test_is_kept(tmp_path, no_training):
    made = fit(tmp_path)
    no_training()
    again = fit(tmp_path)
    assert torch.equal(vector(again.generator), vector(made.generator))
    assert again.history.equals(made.history)
    assert (again.key, again.seconds) == (made.key, made.seconds)
    for changed in (
        {"n_epochs": 4},
        {"batch_size": 15},
        {"learning_rate": 1e-3},
        {"patience": 1},
        {"seed": 1},
        {"variant": "text"},
    ):
        with pytest.raises(AssertionError):
            fit(tmp_path, **changed)


def test_interrupted_and_resumed_is_the_same(tmp_path, interrupted):
    whole = fit(tmp_path / "whole")
    batches = interrupted(inversion, "_mean_absolute_error", 5)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "part")
    part = fit(tmp_path / "part")
    assert len(batches) == 5 + 6  # the first epoch is not trained again
    assert torch.equal(vector(part.generator), vector(whole.generator))
    assert part.history.psnr_test.equals(whole.history.psnr_test)


def test_early_stop(tmp_path):
    made = fit(tmp_path, n_epochs=99, learning_rate=0.3, batch_size=40, patience=2)
    assert len(made.history) < 99
    best = made.history.psnr_test.idxmax()
    assert len(made.history) == best + 1 + 2


def test_decode_is_the_network_in_chunks(monkeypatch):
    sizes = {"widths": (3, 2), "kernel_size": 3}
    G = Generator(4, (1, 8, 8), variant="text", **sizes, seed=0).eval()
    z = pairs()[1]
    torch.nn.init.constant_(G.image[1].bias, 0.9)
    expected = G(z)
    assert expected.max() > 1  # so that clipping is seen
    monkeypatch.setattr(inversion, "CHUNK", 7)
    images = inversion.decode(G, z)
    assert not images.requires_grad
    torch.testing.assert_close(images, expected.detach().clamp(-1, 1))
    assert inversion.decode(G, z.double()).dtype == torch.float32


def test_watched_psnr_is_that_of_all_images_at_once(monkeypatch):
    monkeypatch.setattr(inversion, "CHUNK", 7)
    pixels, z = pairs()
    sizes = {"widths": (3, 2), "kernel_size": 3}
    G = Generator(4, (1, 8, 8), **sizes, seed=0).eval()
    mse = (inversion.decode(G, z) - to_signed(pixels)).square().mean()
    expected = 10 * math.log10(4 / mse)
    assert inversion._psnr(G, pixels, z) == pytest.approx(expected, abs=1e-5)


def test_refusals_come_from_below(tmp_path):
    with pytest.raises(ParameterError, match="batch_size=0"):
        fit(tmp_path, batch_size=0)
