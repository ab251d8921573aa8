"""The planar-flow autoencoder of z: what its flows add to the plain one's numbers.

All seeds are fixed; statistical tests allow five standard errors.
"""

from functools import partial

import pytest
import torch

from latent_scattering import latents
from latent_scattering.latents import networks, planar_vae, vae
from latent_scattering.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"latent_dim": 2, "widths": (8,)}
KINDS = [{"K": 0}, {"K": 3}, {"K": 3, "amortised": True}]


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


def codes(n=60, d=4, seed=0):
    return torch.randn(n, d, generator=noise(seed))


def fit(name, root, z, *, seed=0, **options):
    return latents.fit(
        name, z, seed=seed, store=Store(root), inputs=["z"], **{**SMALL, **options}
    )


def network(**options):
    """A network whose flows are not the identity."""
    with networks.seeded(1):
        net = planar_vae.Network(4, planar_vae.Options(**SMALL, **options))
    for i, parameter in enumerate(net.parameters()):
        more = torch.randn(parameter.shape, generator=noise(i))
        parameter.data += 0.5 * more
    return net


@pytest.mark.parametrize("options", KINDS)
def test_ratio_is_that_of_the_densities(options):
    net, z = network(**options), codes()
    mean, log_s2, h = net.posterior(z, noise())
    h_K, log_det = net.flow(h, z)
    q = torch.distributions.Normal(mean, (log_s2 / 2).exp())
    p = torch.distributions.Normal(torch.zeros(2), 1)
    expected = p.log_prob(h_K).sum(1) - q.log_prob(h).sum(1) + log_det
    draw = net.draw(z, noise())
    torch.testing.assert_close(draw.h, h_K)
    torch.testing.assert_close(draw.log_ratio, expected, rtol=1e-4, atol=1e-4)
    assert (log_det.abs().mean().item() > 0.1) == (options["K"] > 0)
    # The rate is minus its mean.
    draw = net.draw(codes(1).expand(40_000, 4), noise())
    error = draw.rate + draw.log_ratio
    assert error.mean().abs() < 5 * error.std() / 200


@pytest.mark.parametrize("amortised", [False, True])
def test_flows_are_of_each_code_only_if_amortised(amortised):
    net = network(K=2, amortised=amortised)
    h = torch.ones(2, 2)
    shifts = net.flow(h, codes(2)).z - h
    assert bool((shifts[0] - shifts[1]).abs().max() > 1e-3) == amortised


def test_without_flows_it_is_the_plain_autoencoder(tmp_path):
    z = codes(200)
    plain = fit("vae", tmp_path, z, n_epochs=2)
    flowed = fit("planar-vae", tmp_path, z, n_epochs=2, K=0)
    # Up to rounding: on some processors a weight differs by 1e-10.
    close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6)
    for name, weight in plain.network.state_dict().items():
        close(flowed.network.state_dict()[name], weight)
    close(flowed.sample(9, seed=1), plain.sample(9, seed=1))
    close(flowed.elbo(z, seed=1), plain.elbo(z, seed=1))
    more = fit("planar-vae", tmp_path, z, n_epochs=2, K=1)
    assert not torch.equal(more.sample(9, seed=1), plain.sample(9, seed=1))
    with networks.seeded(0):
        first = vae.Network(4, vae.Options(**SMALL))
    with networks.seeded(0):
        second = planar_vae.Network(4, planar_vae.Options(**SMALL, K=3))
    for name, weight in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], weight)


def test_codes_are_reconstructed_from_the_centre_that_the_flows_move():
    net, z = network(K=2), codes()
    model = vae.VAE(net)
    centre = net.flow(net.encoder(z)[:, :2], z).z
    expected = net.decoder(centre).detach()
    torch.testing.assert_close(model.reconstruct(z), expected)
    assert (centre - net.encoder(z)[:, :2]).abs().max() > 0.1
