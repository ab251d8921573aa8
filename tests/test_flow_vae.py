"""Autoencoders with planar flows: bounds and closed forms, seeds apart and together.

All seeds are fixed; statistical tests allow five standard errors.
"""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from latent_scattering import flow_vae, training
from latent_scattering.errors import ParameterError
from latent_scattering.flow_vae import FlowVAE, Network, Options
from latent_scattering.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"latent_dim": 2, "widths": (6,), "n_epochs": 2, "batch_size": 16}


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def images(n=40, side=4):
    """A bright left or right half, with noise."""
    pixels = 40 * noise(n, 1, side, side).abs()
    for i in range(n):
        half = slice(0, side // 2) if i % 2 else slice(side // 2, side)
        pixels[i, :, :, half] += 150
    return pixels.clamp(0, 255).to(torch.uint8)


def network(*, seeds=(0,), n_pixels=5, **options):
    """A network whose flows are not the identity."""
    options = Options(**{**SMALL, **options})
    net = Network(n_pixels, options, n_steps=3, seeds=seeds)
    for i, parameter in enumerate(net.parameters()):
        parameter.data += 0.5 * noise(*parameter.shape, seed=i)
    return net.double()


def fit(root, seeds=(0,), pixels=None, **options):
    return flow_vae.fit(
        images() if pixels is None else pixels,
        Options(**{**SMALL, **options}),
        seeds=seeds,
        store=Store(root),
        inputs=["images"],
    )


def test_log_likelihood():
    logits, x = 8 * noise(3, 4), uniform(3, 4)
    expected = -binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
    torch.testing.assert_close(flow_vae.log_likelihood(x, logits), expected)


KINDS = [
    {"K": 0},
    {"K": 3},
    {"K": 3, "amortised": True},
    {"K": 2, "constrained": False},
]


@pytest.mark.parametrize("options", KINDS)
def test_weight_is_the_ratio_of_the_densities(options):
    """log p(x | z_K) p(z_K)/q(z_K | x), each factor as its definition has it."""
    net = network(seeds=(0, 1), **options)
    x, e = uniform(2, 7, 5).double(), noise(2, 7, 2, seed=9).double()
    q = net.posterior(x)
    s = (q.log_s2 / 2).exp()
    z = q.mean + s * e
    z_K, log_det = net.flow(z, q)
    log_q = torch.distributions.Normal(q.mean, s).log_prob(z).sum(-1) - log_det
    log_p = torch.distributions.Normal(0, 1).log_prob(z_K).sum(-1)
    likelihood = flow_vae.log_likelihood(x, net.decoder(z_K))
    torch.testing.assert_close(net.log_weight(x, q, e), likelihood + log_p - log_q)
    assert (log_det.abs().mean().item() > 0.1) == (net.options.K > 0)


@pytest.mark.parametrize("options", KINDS)
def test_elbo_is_the_mean_of_the_log_weight(options):
    net = network(**options)
    x = uniform(1, 1, 5).double().expand(1, 40_000, 5)
    e = noise(1, 40_000, 2, seed=3).double()
    elbo = net.elbo(x, e)
    weight = net.log_weight(x, net.posterior(x), e)
    difference = weight - elbo.total
    assert difference.mean().abs() < 5 * difference.std() / 200
    # Of the same draws, which must not be the same numbers.
    assert difference.std() > 0.1


def test_without_flows_it_is_the_plain_autoencoder():
    net = network(K=0)
    x, e = uniform(1, 7, 5).double(), noise(1, 7, 2).double()
    (W, b), (V, c) = ((m.weight[0], m.bias[0]) for m in net.encoder[::2])
    mean, log_s2 = ((x[0] @ W + b).relu() @ V + c).chunk(2, 1)
    q = torch.distributions.Normal(mean, (log_s2 / 2).exp())
    p = torch.distributions.Normal(torch.zeros(2).double(), 1)
    divergence = torch.distributions.kl_divergence(q, p).sum(1)
    elbo = net.elbo(x, e)
    torch.testing.assert_close(elbo.divergence[0], divergence)
    (W, b), (V, c) = ((m.weight[0], m.bias[0]) for m in net.decoder[::2])
    z = mean + q.scale * e[0]
    logits = (z @ W + b).relu() @ V + c
    expected = (x[0] * logits - softplus(logits)).sum(1)
    torch.testing.assert_close(elbo.reconstruction[0], expected)


@pytest.mark.parametrize("amortised", [False, True])
def test_flows_leave_the_first_weights_and_the_first_elbo(amortised):
    plain, flowed = (
        Network(5, Options(**SMALL, K=K, amortised=amortised), n_steps=1, seeds=(4, 2))
        for K in (0, 5)
    )
    shared = plain.encoder.state_dict() | plain.decoder.state_dict()
    for name, weight in shared.items():
        other = (flowed.encoder.state_dict() | flowed.decoder.state_dict())[name]
        assert torch.equal(other, weight)
    x, e = uniform(2, 7, 5), noise(2, 7, 2)
    for a, b in zip(plain.elbo(x, e), flowed.elbo(x, e), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0.1)
    # Initial weights are PyTorch's: uniform, ±1/√n_in.
    weight = Network(400, Options(), n_steps=1, seeds=(0,)).encoder[0].weight
    assert weight.abs().max().item() == pytest.approx(1 / 20, rel=1e-3)
    assert weight.std().item() == pytest.approx(1 / 20 / 3**0.5, rel=1e-2)


def test_flows_are_of_each_image_only_if_amortised():
    x = uniform(1, 2, 5).double()
    q = network(K=3).posterior(x)
    assert q.planes.shape == (1, 3, 5)
    q = network(K=3, amortised=True).posterior(x)
    assert q.planes.shape == (1, 2, 3, 5)
    assert (q.planes[0, 0] - q.planes[0, 1]).abs().max() > 0.01


@pytest.mark.parametrize(
    "options", [{"K": 0}, {"K": 2, "binary": True}, {"K": 2, "amortised": True}]
)
def test_a_seed_is_the_same_alone(options, tmp_path):
    together = fit(tmp_path, seeds=(3, 1), **options)
    alone = fit(tmp_path, seeds=(1,), **options)
    torch.testing.assert_close(together.trace[..., 1], alone.trace[..., 0])
    for name, weight in alone.network.named_parameters():
        other = together.network.get_parameter(name)
        torch.testing.assert_close(other[1], weight[0], rtol=1e-3, atol=1e-5)
        if weight.numel() and name != "amortise":
            assert (other[0] - other[1]).abs().max() > 0.01
    assert (together.trace[..., 0] - together.trace[..., 1]).abs().min() > 1e-5


def test_pairs_of_options_see_the_same_images_and_noise():
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    flat = images().flatten(1)
    orders = flow_vae._orders(40, (0, 7))
    assert torch.equal(orders.sort(0).values, torch.arange(40)[:, None].expand(40, 2))
    assert not torch.equal(orders[:, 0], orders[:, 1])
    drawn = [
        flow_vae._draw(flat, orders[:9], Options(K=K), (0, 7), generator)
        for K, generator in zip((0, 5), generators, strict=True)
    ]
    for a, b in zip(*drawn, strict=True):
        assert torch.equal(a, b)
    x, e = drawn[0]
    assert torch.equal(x[1], flat[orders[:9, 1]] / 255)
    assert not torch.equal(e[0], e[1])
    again = flow_vae._draw(flat, orders[:9], Options(), (0, 7), generators[0])
    assert not torch.equal(again[1], e)


def test_draws_of_training():
    flat = torch.tensor([[0, 51, 204, 255]], dtype=torch.uint8)
    x, e = flow_vae._draw(
        flat,
        torch.zeros(40_000, 1, dtype=torch.int64),
        Options(binary=True, latent_dim=1),
        (0,),
        torch.Generator().manual_seed(0),
    )
    assert x.unique().tolist() == [0, 1]
    expected = torch.tensor([0, 0.2, 0.8, 1])
    error = (x[0].mean(0) - expected).abs()
    assert (error <= 5 * (expected * (1 - expected) / 40_000).sqrt()).all()
    assert e.mean().abs() < 5 / 200
    assert (e.var() - 1).abs() < 5 * 2**0.5 / 200


def test_binarised():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).expand(1, 1, 40_000, 3)
    found = flow_vae.binarised(pixels, seed=0)
    assert found.unique().tolist() == [0, 255]
    assert found[..., 0].max() == 0
    assert found[..., 2].min() == 255
    assert (found[..., 1].double().mean() / 255 - 0.2).abs() < 5 * 0.4 / 200
    assert torch.equal(found, flow_vae.binarised(pixels, seed=0))
    assert not torch.equal(found, flow_vae.binarised(pixels, seed=1))


def model(**options):
    """Not trained, of images of 1×1×5 pixels."""
    return FlowVAE(network(**options).float(), (1, 1, 5), pd.DataFrame())


@pytest.mark.parametrize("amortised", [False, True])
def test_weights_average_to_the_likelihood(amortised):
    """Both sides by quadrature, with a z of one dimension: ∫ q w = ∫ p(x, z) dz."""
    net = network(latent_dim=1, K=3, amortised=amortised, seeds=(0, 1))
    net.encoder[-1].bias.data[:, :, 1] += 1  # wide enough for its grid
    axis = torch.linspace(-40, 40, 8_001).double()
    step, gaussian = 80 / 8_000, -axis.square() / 2 - math.log(2 * math.pi) / 2
    for x in uniform(4, 5).double():
        x = x.expand(2, 8_001, 5)
        z = axis[:, None].expand(2, 8_001, 1)
        joint = flow_vae.log_likelihood(x, net.decoder(z)) + gaussian
        weight = net.log_weight(x, net.posterior(x), z) + gaussian
        expected, found = ((log.exp() * step).sum(1) for log in (joint, weight))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)


def test_bound_is_the_likelihood_where_z_says_nothing():
    """The decoder ignores z, the posterior is the prior: all weights are p(x)."""
    vae, pixels = model(K=0, seeds=(0, 1)), (255 * uniform(6, 1, 1, 5)).byte()
    for layer in (vae.network.encoder[-1], vae.network.decoder[-1]):
        layer.weight.data.zero_()
    vae.network.encoder[-1].bias.data.zero_()
    bound = vae.importance_weighted(pixels, n_samples=7, seed=0)
    torch.testing.assert_close(bound, vae.elbo(pixels, seed=1).total)


def test_bounds_are_ordered():
    vae, pixels = model(K=2, seeds=(0, 1)), (255 * uniform(6, 1, 1, 5)).byte()
    elbo = vae.elbo(pixels, n_samples=400, seed=0).total
    several, many = (
        vae.importance_weighted(pixels, n_samples=k, seed=0) for k in (10, 2000)
    )
    assert elbo.mean() + 0.1 < several.mean() < many.mean() - 0.1
    # A single weight is another estimate of the ELBO.
    x = pixels[:1].expand(4000, 1, 1, 5)
    one = vae.importance_weighted(x, n_samples=1, seed=1) - vae.elbo(x, seed=2).total
    assert (one.mean(1).abs() < 5 * one.std(1) / 4000**0.5).all()


def test_elbo_and_bounds_are_of_the_seed_alone_and_in_chunks(monkeypatch):
    vae, pixels = model(K=2), (255 * uniform(6, 1, 1, 5)).to(torch.uint8)
    before = vae.reconstruct(pixels)
    elbo = vae.elbo(pixels, seed=1)
    assert torch.equal(elbo.total, vae.elbo(pixels, seed=1).total)
    assert not torch.equal(elbo.total, vae.elbo(pixels, seed=2).total)
    assert elbo.reconstruction.shape == elbo.divergence.shape == (1, 6)
    monkeypatch.setattr(flow_vae, "CHUNK", 4)
    torch.testing.assert_close(vae.reconstruct(pixels), before)
    assert vae.importance_weighted(pixels, seed=1).shape == (1, 6)
    assert vae.sample(9, seed=0).shape == (1, 9, 1, 1, 5)


def test_reconstructions_are_of_the_centre_moved_by_the_flows():
    vae, pixels = model(K=2, seeds=(0, 1)), torch.full((3, 1, 1, 5), 99).byte()
    found = vae.reconstruct(pixels)
    q = vae.network.posterior((pixels.flatten(1) / 255).expand(2, 3, 5))
    z = vae.network.flow(q.mean, q).z
    expected = vae.network.decoder(z).sigmoid().view(2, 3, 1, 1, 5)
    torch.testing.assert_close(found, expected.detach())
    assert not found.requires_grad
    assert (z - q.mean).abs().max() > 0.01


def test_samples_are_decoded_draws_of_the_prior():
    vae = model(K=2, seeds=(0, 1))
    z = noise(9, 2, seed=3).expand(2, 9, 2)
    expected = vae.network.decoder(z).sigmoid().detach().view(2, 9, 1, 1, 5)
    torch.testing.assert_close(vae.sample(9, seed=3), expected)


def test_slopes():
    pixels = torch.full((3, 1, 1, 5), 99).byte()
    assert model(K=0).slopes(pixels).shape == (1, 1, 0)
    assert model(K=4, seeds=(0, 1)).slopes(pixels).shape == (2, 1, 4)
    assert model(K=4, amortised=True).slopes(pixels).shape == (1, 3, 4)
    vae = model(K=4, constrained=False)
    u, w, _ = vae.network.planes.data.split([2, 2, 1], -1)
    torch.testing.assert_close(vae.slopes(pixels)[:, 0], (u * w).sum(-1))
    assert (model(K=4).slopes(pixels) > -1).all()


def test_training_learns_and_its_trace_is_kept(tmp_path):
    pixels = images(200)
    vae = fit(tmp_path, (0, 1), pixels, n_epochs=25, K=2, learning_rate=1e-2)
    steps = 25 * 13
    assert vae.trace.shape == (steps, 2, 2)
    assert vae.seeds == (0, 1)
    curves = vae.curves
    assert list(curves) == ["epoch", "seed", "loss", "reconstruction", "divergence"]
    assert len(curves) == 50
    first, last = curves[curves.epoch == 1], curves[curves.epoch == 25]
    assert last.loss.max() < first.loss.min() - 1
    parts = curves.divergence - curves.reconstruction
    np.testing.assert_allclose(curves.loss, parts, rtol=1e-5)
    # Epochs have 13 batches of nearly equal size, and seeds are summed.
    by_epoch = curves.groupby("epoch").loss.sum()
    np.testing.assert_allclose(by_epoch, vae.history.loss, rtol=1e-2)
    elbo = vae.elbo(pixels, n_samples=5, seed=0)
    assert elbo.total.mean(1).tolist() == pytest.approx((-last.loss).tolist(), abs=0.3)
    error = (vae.reconstruct(pixels) - pixels / 255).square().mean()
    assert error < 0.35 * (pixels / 255).var(0).mean()
    # Half of the samples are bright at the left, as half of the images are.
    left = vae.sample(400, seed=0)[..., :2].mean((2, 3, 4)) > 0.35
    assert (left.double().mean(1) - 0.5).abs().max() < 0.2


def test_what_is_trained_is_kept(tmp_path, monkeypatch):
    vae = fit(tmp_path, K=1)
    options = Options(**SMALL, K=1)

    def refuse(*arguments, **more):
        raise AssertionError("trained again")

    monkeypatch.setattr(training, "fit", refuse)
    again = fit(tmp_path, K=1)
    assert torch.equal(again.trace, vae.trace)
    assert again.curves.equals(vae.curves)
    assert torch.equal(again.sample(3, seed=0), vae.sample(3, seed=0))
    changes = {
        "K": 2,
        "amortised": True,
        "constrained": False,
        "latent_dim": 3,
        "widths": (5,),
        "binary": True,
        "n_epochs": 3,
        "batch_size": 15,
        "learning_rate": 0.1,
    }
    assert list(changes) == [field.name for field in dataclasses.fields(options)]
    for name, value in changes.items():
        with pytest.raises(AssertionError, match="trained again"):
            fit(tmp_path, **{"K": 1, name: value})
    for more in ({"seeds": (1,)}, {"pixels": images(41)}):
        with pytest.raises(AssertionError, match="trained again"):
            fit(tmp_path, K=1, **more)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda root: Options(K=-1), "K=-1: at least 0"),
        (lambda root: Options(latent_dim=0), "latent_dim=0: at least 1"),
        (lambda root: Options(n_epochs=0), "n_epochs=0: at least 1"),
        (lambda root: Options(batch_size=0), "batch_size=0: at least 1"),
        (lambda root: Options(widths=(3, 0)), r"widths=\(3, 0\): all must be"),
        (lambda root: fit(root, seeds=()), r"seeds=\[\]: one or more"),
        (lambda root: fit(root, seeds=(1, 1)), r"seeds=\[1, 1\]: one or more diff"),
        (lambda root: fit(root, seeds=(-1,)), r"seeds=\[-1\]: one or more diff"),
        (lambda root: fit(root, learning_rate=0.0), "learning_rate=0.0: must be"),
        (lambda root: fit(root, pixels=images(1)[:0]), "0 images: give at least"),
        (lambda root: model().sample(0, seed=0), "0 draws: at least 1"),
        (
            lambda root: model().importance_weighted(
                torch.zeros(1, 1, 1, 5).byte(), n_samples=0, seed=0
            ),
            "0 draws: at least 1",
        ),
    ],
)
def test_refusals(call, message, tmp_path):
    with pytest.raises(ParameterError, match=message) as caught:
        call(tmp_path)
    assert "\n" not in str(caught.value)
