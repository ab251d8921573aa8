from itertools import pairwise

import pytest
import torch
from torch import nn

from latent_scattering.errors import ParameterError
from latent_scattering.generator import Generator, architecture


@pytest.mark.parametrize(
    ("shape", "widths", "kernel_size"),
    [
        ((1, 28, 28), (128, 64, 32), 3),  # Ziomek & Farrahi, 7×7 to begin with
        ((1, 32, 32), (128, 64, 32), 3),
        ((3, 128, 128), (1024, 512, 256, 128, 64, 32), 7),  # Angles & Mallat's code
        ((1, 25, 25), (32,), 3),
    ],
)
def test_architectures_of_the_papers(shape, widths, kernel_size):
    assert architecture(shape) == (widths, kernel_size)


def test_number_of_weights_of_the_authors_network():
    with torch.device("meta"):
        shape = (3, 128, 128)
        G = Generator(512, shape, **architecture(shape)._asdict(), seed=0)
    # Counted from the sizes in the public code.
    widths = [1024, 512, 256, 128, 64, 32]
    pairs = [*pairwise(widths), (32, 3)]
    weights = 512 * 16 * 1024 + sum(49 * a * b for a, b in pairs)
    assert sum(w.numel() for w in G.parameters()) == weights + 2 * (sum(widths) + 3)
    assert G.start == (1024, 4, 4)


@pytest.mark.parametrize("variant", ["code", "text"])
@pytest.mark.parametrize(
    ("d", "shape", "widths", "kernel_size"),
    [
        (5, (1, 16, 16), (6, 4), 3),
        (7, (3, 12, 20), (8, 6, 4), 5),
        (3, (1, 9, 9), (4,), 1),
    ],
)
def test_gives_images_of_any_shape(variant, d, shape, widths, kernel_size):
    G = Generator(
        d, shape, variant=variant, widths=widths, kernel_size=kernel_size, seed=0
    )
    images = G(torch.randn(11, d, generator=torch.Generator().manual_seed(0)))
    assert images.shape == (11, *shape)
    assert images.min() >= -1
    assert variant == "text" or images.max() <= 1


@pytest.mark.parametrize("variant", ["code", "text"])
def test_is_the_formula(variant):
    """Every step again, by functions of torch, from the same weights."""
    G = Generator(5, (2, 8, 8), variant=variant, widths=(6, 4), kernel_size=3, seed=0)
    z = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    f = nn.functional

    def norm(x):
        if variant == "text":
            return x
        return nn.BatchNorm2d(x.shape[1], eps=1e-3, affine=False)(x)

    for m in G.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.ones_(m.weight)
    convolutions = [m for m in G.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 2
    x = norm(f.linear(z, G.linear.weight, G.linear.bias).view(9, 6, 4, 4)).relu()
    x = f.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    for i, c in enumerate(convolutions):
        x = f.conv2d(f.pad(x, (1, 1, 1, 1), mode="reflect"), c.weight, c.bias)
        x = norm(x).relu() if i == 0 else norm(x)
    expected = x.tanh() if variant == "code" else 2 * x.relu() - 1
    torch.testing.assert_close(G(z), expected)


def test_initial_weights():
    shape = (1, 28, 28)
    G = Generator(512, shape, **architecture(shape)._asdict(), seed=0)
    weight = G.linear.weight.detach()
    assert weight.std().item() == pytest.approx(0.02, rel=0.01)
    assert weight.mean().item() == pytest.approx(0, abs=1e-4)
    linear = [m for m in G.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert all(m.bias is None for m in linear)
    norms = [m for m in G.modules() if isinstance(m, nn.BatchNorm2d)]
    weights = torch.cat([m.weight.detach() for m in norms])
    assert weights.mean().item() == pytest.approx(1, abs=0.01)
    assert weights.std().item() == pytest.approx(0.02, rel=0.2)
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.1)}


def test_seed_alone_decides_the_initial_weights():
    def weights(seed):
        G = Generator(4, (1, 8, 8), widths=(4, 2), kernel_size=3, seed=seed)
        return nn.utils.parameters_to_vector(G.parameters())

    before = torch.get_rng_state()
    first = weights(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    assert torch.equal(weights(1), first)
    assert not torch.equal(weights(2), first)


def test_text_passes_gradients_to_dark_pixels():
    G = Generator(3, (1, 8, 8), variant="text", widths=(4, 2), kernel_size=3, seed=0)
    nn.init.constant_(G.image[1].bias, -100)  # every pixel is off
    images = G(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
    assert (images == -1).all()
    (1 - images).abs().mean().backward()
    assert G.image[1].bias.grad < 0


def test_share_of_zeros_counts_hidden_activations():
    G = Generator(3, (1, 8, 8), variant="text", widths=(4, 2), kernel_size=3, seed=0)
    with torch.no_grad():
        for layer in (G.linear, G.blocks[0][0]):
            layer.weight.zero_()
        G.linear.bias.fill_(1)  # 4 × 4×4 activations, all on
        G.blocks[0][0].bias.copy_(torch.tensor([-1.0, 1.0]))  # 2 × 8×8, half on
    assert G.share_of_zeros(torch.zeros(300, 3)) == 64 / (64 + 128)
    assert not any(m._forward_hooks for m in G.modules())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"shape": (1, 30, 28), "widths": (8, 4, 2)}, "allow multiples of 4"),
        ({"kernel_size": 4}, "kernel_size=4: odd values from 1 to 15"),
        ({"kernel_size": 17}, "kernel_size=17: odd values from 1 to 15"),
        ({"d": 0}, "d=0"),
        ({"widths": ()}, r"widths=\(\)"),
        ({"widths": (4, 0)}, r"widths=\(4, 0\)"),
        ({"shape": (0, 8, 8)}, "must be"),
    ],
)
def test_refusals(changed, message):
    arguments = {"d": 3, "shape": (1, 8, 8), "widths": (4, 2), "kernel_size": 3}
    with pytest.raises(ParameterError, match=message):
        Generator(**{**arguments, **changed}, seed=0)


def test_largest_kernel_works():
    G = Generator(3, (1, 8, 8), widths=(4, 2), kernel_size=15, seed=0)
    assert G(torch.zeros(2, 3)).shape == (2, 1, 8, 8)
