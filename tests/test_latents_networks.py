"""The models that are trained: their losses, likelihoods and what they learn.

All seeds are fixed, and what is learned is asked with wide margins.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn.functional import softplus

from latent_scattering import latents, training
from latent_scattering.errors import ParameterError, TrainingError
from latent_scattering.latents import flow_matching, gan, networks, spline_flow, vae
from latent_scattering.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


def codes(n=60, d=3, seed=0):
    return torch.randn(n, d, generator=noise(seed))


def fit(name, root, z, *, seed=0, **options):
    return latents.fit(name, z, seed=seed, store=Store(root), inputs=["z"], **options)


def modes(n=2000):
    """Two narrow Gaussians in the plane, at (±2, 1), with half of the codes each."""
    centre = torch.tensor([2.0, 0.0]) * (2 * (torch.arange(n) % 2)[:, None] - 1)
    return centre + torch.tensor([0.0, 1.0]) + 0.3 * codes(n, 2)


def assert_has_both_modes(z):
    right = z[:, 0] > 0
    assert right.float().mean().item() == pytest.approx(0.5, abs=0.1)
    for side, sign in ((z[right], 1), (z[~right], -1)):
        assert side.mean(0).tolist() == pytest.approx([2 * sign, 1], abs=0.15)
        assert side.std(0).tolist() == pytest.approx([0.3, 0.3], abs=0.15)


# What networks share.


def test_mlp():
    layers = networks.mlp(3, 5, 4, 2, activation=nn.SiLU)
    assert [type(layer) for layer in layers] == [nn.Linear, nn.SiLU] * 2 + [nn.Linear]
    assert [layer.weight.shape for layer in layers[::2]] == [(5, 3), (4, 5), (2, 4)]
    assert isinstance(networks.mlp(3, 5, 2)[1], nn.ReLU)
    assert len(networks.mlp(3, 2)) == 1


@pytest.mark.parametrize("n", [1, 2])
def test_small_networks_train_on_one_thread(n, tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "SMALL", 0 if n > 1 else networks.SMALL)
    torch.set_num_threads(2)  # `one_thread` restores what there was
    seen = []

    def watch(model):
        seen.append(torch.get_num_threads())
        return {}

    fit("vae", tmp_path, codes(), n_epochs=1, widths=(3,), watch=watch)
    assert seen == [n]
    assert torch.get_num_threads() == 2


def test_plain_fabric_trains_to_the_same_weights():
    weights = []
    for fabric in (networks.Plain(), None):
        with networks.seeded(0):
            network = networks.mlp(3, 4, 3)
        training.fit(
            network,
            lambda network, batch, generator: network(batch[0]).square().mean(),
            (codes(),),
            n_epochs=2,
            batch_size=20,
            learning_rate=0.01,
            seed=0,
            fabric=fabric,
        )
        weights.append(network[0].weight.detach())
    assert torch.equal(*weights)


def test_loss_of_the_training_is_the_mean_of_the_networks_own(tmp_path):
    """One batch of all codes: the loss is that of the first weights."""
    z = codes()
    options = {"widths": (4,), "latent_dim": 2}
    model = fit("vae", tmp_path, z, n_epochs=1, batch_size=60, seed=4, **options)
    with networks.seeded(4):
        network = vae.Network(3, vae.Options(**options))
    losses = []

    def loss(net, batch, generator):
        losses.append(net(batch[0], generator))
        return losses[0].mean()

    training.fit(network, loss, (z,), n_epochs=1, batch_size=60, seed=4)
    assert losses[0].shape == (60,)
    assert model.history.loss[0] == pytest.approx(losses[0].mean().item(), rel=1e-5)


# The variational autoencoder.


def test_readings_of_the_papers_beta():
    assert list(vae.readings(0.001, 512, 64).values()) == [0.256, 0.0005, 0.004]


def network(beta=0.3, d=4, latent_dim=2):
    with networks.seeded(1):
        return vae.Network(
            d, vae.Options(beta=beta, latent_dim=latent_dim, widths=(8,))
        )


def test_rate_is_the_divergence_and_its_estimate():
    net, z = network(), codes(5, 4)
    rate = net.rate_distortion(z, noise()).rate
    mean, log_s2, _ = net.posterior(z, noise())
    q = torch.distributions.Normal(mean, (log_s2 / 2).exp())
    p = torch.distributions.Normal(torch.zeros(2), 1)
    closed = torch.distributions.kl_divergence(q, p).sum(1)
    torch.testing.assert_close(rate, closed)
    h = q.sample((100_000,))
    ratio = (q.log_prob(h) - p.log_prob(h)).sum(-1)
    assert ((ratio.mean(0) - rate).abs() < 5 * ratio.std(0) / 100_000**0.5).all()


def test_draws_of_the_posterior_have_its_moments():
    net = network()
    mean, log_s2, h = net.posterior(codes(1, 4).expand(40_000, 4), noise())
    error = (h.mean(0) - mean[0]).abs()
    assert (error < 5 * h.std(0) / 200).all()
    torch.testing.assert_close(h.var(0), log_s2[0].exp(), rtol=0.05, atol=0)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_loss_in_the_stated_convention(beta):
    net, z = network(beta), codes(7, 4)
    _, _, h = net.posterior(z, noise())
    error = (z - net.decoder(h)).square()
    rate, distortion = net.rate_distortion(z, noise())
    torch.testing.assert_close(distortion, error.mean(1))
    torch.testing.assert_close(net(z, noise()), error.sum(1) / 2 + beta * rate)


def linear_gaussian(encoder_error=0.0):
    """A VAE whose posterior is exact, and the density of its z ~ N(b, WWᵀ + σ²I)."""
    W = torch.tensor([[1.5, 0.0], [0.0, 0.7], [1.5, 0.0], [0.0, -0.7]])
    b, variance = torch.tensor([1.0, 0.0, -1.0, 0.5]), 0.4
    options = vae.Options(latent_dim=2, widths=())
    net = vae.Network(4, options)
    M = W.T @ W + variance * torch.eye(2)  # diagonal, as q can be
    inverse = torch.linalg.inv(M)
    with torch.no_grad():
        net.decoder[0].weight.copy_(W)
        net.decoder[0].bias.copy_(b)
        net.encoder[0].weight.zero_()
        net.encoder[0].weight[:2] = inverse @ W.T
        net.encoder[0].bias[:2] = -inverse @ W.T @ b + encoder_error
        net.encoder[0].bias[2:] = (variance * inverse.diagonal()).log()
        net.variance.fill_(variance)
    covariance = W @ W.T + variance * torch.eye(4)
    return vae.VAE(net), stats.multivariate_normal(b, covariance)


def test_bounds_are_exact_for_the_exact_posterior():
    model, exact = linear_gaussian()
    z = torch.tensor(exact.rvs(3000, random_state=0)).float()
    expected = exact.logpdf(z)
    for k in (1, 3):
        bound = model.importance_weighted(z, n_samples=k, seed=1)
        np.testing.assert_allclose(bound, expected, atol=1e-4)
    # One draw of h leaves noise, here of about one nat; five standard errors.
    elbo = model.elbo(z, seed=1).numpy() - expected
    assert abs(elbo.mean()) < 5 * elbo.std() / 3000**0.5 < 0.2


def test_bounds_are_ordered_for_another_posterior():
    model, exact = linear_gaussian(encoder_error=0.2)
    z = torch.tensor(exact.rvs(3000, random_state=0)).float()
    bounds = [
        model.elbo(z, seed=1),
        *(model.importance_weighted(z, n_samples=k, seed=1) for k in (5, 30)),
        torch.tensor(exact.logpdf(z)),
    ]
    gaps = np.diff([bound.mean().item() for bound in bounds])
    assert (gaps > 0).all()
    assert gaps[0] > 0.1
    assert gaps[2] < 0.05
    # The first estimates the same as one weight.
    one = (model.importance_weighted(z, n_samples=1, seed=2) - bounds[0]).numpy()
    assert abs(one.mean()) < 5 * one.std() / 3000**0.5
    with pytest.raises(ParameterError, match="n_samples=0: at least 1"):
        model.importance_weighted(z, n_samples=0, seed=0)


def test_linear_vae_finds_principal_components(tmp_path):
    """Its optimum is probabilistic PCA with σ² = β (Dai et al. 2018, Lucas 2019)."""
    scale = torch.tensor([2.0, 1.5, 0.5, 0.5, 0.5]).sqrt() * 2**0.5
    rotation = torch.linalg.qr(codes(5, 5, seed=3)).Q
    z = codes(2000, 5) * scale @ rotation
    beta = 1.0  # the variance of the three smallest
    model = fit(
        "vae",
        tmp_path,
        z,
        widths=(),
        latent_dim=2,
        beta=beta,
        n_epochs=40,
        learning_rate=2e-2,
    )
    eigenvalues = torch.linalg.eigvalsh(z.T.cov()).flip(0)
    W = model.network.decoder[0].weight
    found = torch.linalg.svdvals(W).square()
    np.testing.assert_allclose(found.detach(), eigenvalues[:2] - beta, rtol=0.15)
    assert model.variance == pytest.approx(beta, rel=0.05)
    exact = stats.multivariate_normal(
        np.zeros(5), (W @ W.T).detach() + model.variance * torch.eye(5)
    )
    assert model.elbo(z, seed=0).mean() == pytest.approx(
        exact.logpdf(z).mean(), abs=0.05
    )
    np.testing.assert_allclose(
        model.importance_weighted(z, n_samples=200, seed=0), exact.logpdf(z), atol=0.2
    )
    # The posterior mean shrinks what it keeps: W (WᵀW + β)⁻¹ Wᵀ z.
    P = W @ torch.linalg.inv(W.T @ W + beta * torch.eye(2)) @ W.T
    np.testing.assert_allclose(model.reconstruct(z), (z @ P).detach(), atol=0.3)


def test_variance_history_and_noise(tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "WATCHED", 50)
    z = codes(300, 4)
    options = {"widths": (8,), "latent_dim": 2, "n_epochs": 2, "beta": 0.01}
    model = fit("vae", tmp_path, z, seed=5, **options)
    distortion = model.rate_distortion(z, seed=5).distortion.mean().item()
    assert model.variance == pytest.approx(distortion, rel=1e-5)
    for name, values in model.rate_distortion(z[:50], seed=5)._asdict().items():
        last = model.history[name].iloc[-1]
        assert last == pytest.approx(values.mean().item(), rel=1e-4)
    kept = sorted(tmp_path.glob("vae/*"))
    noisy = fit("vae", tmp_path, z, seed=5, noise=True, **options)
    assert sorted(tmp_path.glob("vae/*")) == kept
    added = noisy.sample(3000, seed=0) - model.sample(3000, seed=0)
    # Of independent Gaussians of variance σ²: false alarm .001.
    sigma = math.sqrt(model.variance)
    assert stats.kstest(added.flatten(), stats.norm(0, sigma).cdf).pvalue > 0.001


# The generative adversarial network.


@pytest.mark.parametrize("loss", gan.LOSSES)
def test_one_backward_gives_each_player_its_own_gradient(loss):
    options = gan.Options(loss=loss, gamma=3.0, latent_dim=2, widths=(5, 4))
    with networks.seeded(0):
        net = gan.Network(3, options).double()
    z = codes(8).double()
    net(z, noise(6)).mean().backward()
    together = {name: p.grad.clone() for name, p in net.named_parameters()}

    h = torch.randn(8, 2, generator=noise(6)).double()
    net.zero_grad()
    of_real, of_fake = net.D(z), net.D(net.G(h).detach())
    loss_d = (softplus(-of_real) + softplus(of_fake)).mean()
    if loss == "r1":
        slopes = torch.func.vmap(torch.func.jacrev(lambda x: net.D(x)[0]))(z)
        loss_d = loss_d + 1.5 * slopes.square().sum(1).mean()
    loss_d.backward()
    apart = {f"D.{name}": p.grad.clone() for name, p in net.D.named_parameters()}
    net.zero_grad()
    loss_g = softplus(-net.D(net.G(h))).mean()
    loss_g.backward()
    apart |= {f"G.{name}": p.grad.clone() for name, p in net.G.named_parameters()}

    torch.testing.assert_close(together, apart)
    assert all(gradient.abs().sum() > 0 for gradient in together.values())
    torch.testing.assert_close(net(z, noise(6)).mean(), loss_d + loss_g)


def test_gan_learns_a_shift_and_a_scale(tmp_path):
    z = torch.tensor([1.5, -0.5]) + torch.tensor([0.5, 1.5]) * codes(2000, 2)
    model = fit(
        "gan",
        tmp_path,
        z,
        loss="r1",
        latent_dim=2,
        widths=(32,),
        n_epochs=40,
        learning_rate=5e-3,
    )
    draws = model.sample(2000, seed=0)
    assert draws.mean(0).tolist() == pytest.approx([1.5, -0.5], abs=0.3)
    assert draws.std(0).tolist() == pytest.approx([0.5, 1.5], rel=0.4)
    last = model.history.iloc[-1]
    assert last.real == pytest.approx(0.5, abs=0.1)
    assert last.fake == pytest.approx(0.5, abs=0.1)


def test_gan_that_diverges_keeps_its_last_good_weights(tmp_path):
    z, seen = codes(), []
    options = {"widths": (4,), "latent_dim": 2, "batch_size": 20}

    def watch(model):
        seen.append((model.network, networks_state(model.network)))
        if len(seen) == 2:  # something goes wrong in the third epoch
            z.mul_(torch.inf)
        return {}

    with pytest.raises(TrainingError, match=r"^the loss is nan at epoch 3") as caught:
        fit("gan", tmp_path, z, n_epochs=5, watch=watch, **options)
    assert "\n" not in str(caught.value)
    assert len(seen) == 2
    final = networks_state(seen[0][0])
    assert all(weight.isfinite().all() for weight in final.values())
    torch.testing.assert_close(final, seen[1][1], rtol=0, atol=0)


def networks_state(module):
    return {name: t.clone() for name, t in module.state_dict().items()}


# Flow matching.


def test_flow_matching_starts_from_the_gaussian():
    net = flow_matching.Network(3, flow_matching.Options(widths=(4,)))
    draws = net.generate(50, noise())
    torch.testing.assert_close(draws, codes(50), rtol=0, atol=2e-3)


def test_heuns_method_is_of_second_order():
    """dx/dt = (c(t) + t) x has the solution x(1) = √e x(0)."""
    net = flow_matching.Network(3, flow_matching.Options(widths=())).double()
    velocity, errors = net.velocity, []
    net.velocity = lambda x, t: velocity(x, t) + t * x
    with torch.no_grad():
        for net.n_steps in (20, 40):
            ratio = net.generate(5, noise()) / codes(5).double()
            errors.append((ratio - math.exp(0.5)).abs().max().item())
    assert errors[0] / errors[1] == pytest.approx(4, abs=0.3)


def test_flow_matching_loss_is_zero_for_the_velocity_to_one_code():
    net = flow_matching.Network(3, flow_matching.Options(widths=(4,))).double()
    z = codes(1).double().expand(200, 3)
    times = []

    def velocity(x, t):
        times.append(t)
        return (z - x) / (1 - t)

    net.velocity = velocity
    torch.testing.assert_close(net(z, noise()), torch.zeros(200).double())
    assert stats.kstest(times[0].flatten(), stats.uniform.cdf).pvalue > 0.001
    net.velocity = lambda x, t: 0 * x
    # E‖z − ε‖²/d = ‖z‖²/d + 1; five standard errors.
    losses = net(z, noise())
    expected = z[0].square().mean() + 1
    assert (losses.mean() - expected).abs() < 5 * losses.std() / 200**0.5


def test_flow_matching_finds_both_modes(tmp_path):
    model = fit(
        "flow-matching",
        tmp_path,
        modes(),
        widths=(64, 64),
        n_epochs=60,
        learning_rate=3e-3,
    )
    assert_has_both_modes(model.sample(2000, seed=0))


# The spline flow.


def flow(d):
    """A flow whose couplings are not the identity, in float64."""
    with networks.seeded(0):
        net = spline_flow.Network(d, spline_flow.Options(n_layers=3, widths=(8,)))
    for parameter in net.parameters():
        nn.init.normal_(parameter, 0, 0.7, generator=noise(1))
    return net.double()


def test_log_determinant_is_autograds():
    net = flow(3)
    z = 2.5 * codes(60).double()
    assert (z.abs() > 5).any()  # where the splines end
    f = net.flow().transform
    jacobian = torch.func.vmap(torch.func.jacrev(f))(z)
    base = torch.distributions.Normal(torch.zeros(3).double(), 1)
    expected = base.log_prob(f(z)).sum(1) + torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(net.log_prob(z), expected)
    torch.testing.assert_close(net(z, noise()), -expected)
    assert (expected - base.log_prob(z).sum(1)).abs().mean() > 0.1


def test_density_integrates_to_one():
    net = flow(2)
    axis = torch.arange(-8, 8, 0.05).double()
    with torch.no_grad():
        total = net.log_prob(torch.cartesian_prod(axis, axis)).exp().sum() * 0.05**2
    assert total.item() == pytest.approx(1, abs=5e-3)


def test_draws_are_the_inverse():
    net = flow(3)
    x = net.flow().transform(net.generate(50, noise()))
    torch.testing.assert_close(x, codes(50).double())


def test_spline_flow_starts_from_the_gaussian():
    net = spline_flow.Network(4, spline_flow.Options())
    z = 2 * codes(50, 4)
    expected = stats.multivariate_normal(np.zeros(4)).logpdf(z)
    np.testing.assert_allclose(net.log_prob(z).detach(), expected, rtol=1e-4)


def test_spline_flow_finds_both_modes_and_its_likelihood(tmp_path):
    options = {"n_layers": 2, "n_bins": 8, "n_epochs": 25, "learning_rate": 2e-2}
    model = fit("spline-flow", tmp_path, modes(), widths=(16,), patience=5, **options)
    assert_has_both_modes(model.sample(2000, seed=0))
    # The entropy of the two Gaussians together.
    entropy = math.log(2) + math.log(2 * math.pi * math.e * 0.3**2)
    assert model.log_prob(modes()).mean() == pytest.approx(-entropy, abs=0.15)


def test_a_tenth_is_held_out_and_stops_the_training(tmp_path, monkeypatch):
    """Sixty codes of no structure are soon learned by heart."""
    z, kept = codes(95, 5), []
    fitted = training.fit

    def spy(network, loss, data, **more):
        kept.append(data[0])
        return fitted(network, loss, data, **more)

    monkeypatch.setattr(training, "fit", spy)
    options = {"widths": (64,), "n_epochs": 99, "learning_rate": 1e-2, "patience": 2}
    model = fit("spline-flow", tmp_path, z, **options)
    among = (kept[0][:, None] == z).all(2).any(0)
    assert len(kept[0]) == among.sum() == 85
    held_out = model.log_prob(z[~among]).mean().item()
    assert model.history.held_out.iloc[-1] == pytest.approx(held_out, rel=1e-4)
    assert len(model.history) == model.history.held_out.idxmax() + 1 + 2 < 99
    assert not among[:85].all()  # drawn, not the last ones
