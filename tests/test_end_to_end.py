import pytest
import torch

from latent_scattering import end_to_end, generator, training
from latent_scattering.end_to_end import GAN, MODELS, VAE
from latent_scattering.errors import ParameterError

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPE = (1, 16, 16)


def images(n=64, seed=0):
    """A bright half, left or right, on [-1, 1]."""
    noise = torch.Generator().manual_seed(seed)
    x = torch.full((n, *SHAPE), -0.9)
    right = torch.rand(n, generator=noise) < 0.5
    x[right, :, :, 8:] = 0.9
    x[~right, :, :, :8] = 0.9
    return x


def trained(Model, n_epochs, seed=0):
    network = Model(SHAPE, latent_dim=8, seed=seed)
    history = training.fit(
        network,
        lambda network, batch, noise: network(batch[0], noise),
        (images(),),
        n_epochs=n_epochs,
        batch_size=16,
        learning_rate=network.learning_rate,
        betas=network.betas,
        seed=seed,
    )
    return network, history


@pytest.mark.parametrize("Model", MODELS.values())
def test_has_the_generator_of_the_inversion(Model):
    network = Model((3, 28, 28), latent_dim=8, seed=1)
    sizes = generator.architecture((3, 28, 28))._asdict()
    other = generator.Generator(8, (3, 28, 28), **sizes, seed=1)
    for mine, its in zip(network.G.parameters(), other.parameters(), strict=True):
        assert mine.equal(its)


@pytest.mark.parametrize("Model", MODELS.values())
def test_weights_and_samples_depend_on_the_seed_alone(Model):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        one = Model(SHAPE, seed=0).eval()
        torch.manual_seed(2)
        same, other = Model(SHAPE, seed=0).eval(), Model(SHAPE, seed=1).eval()
    for mine, its in zip(one.parameters(), same.parameters(), strict=True):
        assert mine.equal(its)
    assert one.sample(5, seed=0).shape == (5, *SHAPE)
    assert one.sample(5, seed=0).equal(same.sample(5, seed=0))
    assert not one.sample(5, seed=0).equal(one.sample(5, seed=1))
    assert not one.sample(5, seed=0).equal(other.sample(5, seed=0))
    assert one.sample(300, seed=0).abs().max() <= 1


def test_the_vaes_loss_is_the_negative_elbo():
    network, x = VAE(SHAPE, latent_dim=8, seed=0), images()
    loss = network(x, torch.Generator().manual_seed(0))
    mean, log_s2 = network.encoder(x).chunk(2, dim=1)
    noise = torch.randn(len(x), 8, generator=torch.Generator().manual_seed(0))
    posterior = torch.distributions.Normal(mean, (log_s2 / 2).exp())
    prior = torch.distributions.Normal(0.0, 1.0)
    rate = torch.distributions.kl_divergence(posterior, prior).sum(1)
    decoded = network.G(mean + (log_s2 / 2).exp() * noise)
    sigma = (x - decoded).square().mean().sqrt()
    log_p = torch.distributions.Normal(decoded, sigma).log_prob(x).flatten(1).sum(1)
    constant = 256 / 2 * (torch.tensor(2 * torch.pi).log() + 1)
    expected = (rate - log_p).mean() - constant
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-2)


def test_the_vae_learns_two_kinds_of_images():
    network, history = trained(VAE, 40)
    assert history.loss.iloc[-1] < history.loss[0] - 100
    halves = network.sample(200, seed=0).unflatten(3, (2, 8)).mean((1, 2, 4))
    right = halves[:, 1] - halves[:, 0]
    assert (right > 0.5).double().mean() > 0.15
    assert (right < -0.5).double().mean() > 0.15


def test_each_player_of_the_gan_has_its_own_gradient():
    network, x = GAN(SHAPE, latent_dim=8, seed=0), images()
    network(x, torch.Generator().manual_seed(0)).backward()
    got = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad()
    noise = torch.randn(len(x), 8, generator=torch.Generator().manual_seed(0))
    softplus = torch.nn.functional.softplus
    softplus(-network.D(network.G(noise))).mean().backward()
    of_G = {name: p.grad.clone() for name, p in network.G.named_parameters()}
    network.zero_grad()
    fake = network.G(noise).detach()
    (softplus(-network.D(x)) + softplus(network.D(fake))).mean().backward()
    of_D = {name: p.grad.clone() for name, p in network.D.named_parameters()}
    for name, expected in of_G.items():
        torch.testing.assert_close(got[f"G.{name}"], expected, rtol=1e-4, atol=1e-7)
    for name, expected in of_D.items():
        torch.testing.assert_close(got[f"D.{name}"], expected, rtol=1e-4, atol=1e-7)


def test_the_gan_learns_the_brightness_of_images():
    network, _ = trained(GAN, 30)
    drawn = network.sample(200, seed=0)
    assert drawn.mean().abs() < 0.5
    assert drawn.std() > 0.4


def test_the_mirror_of_a_generator_is_normalised_but_for_its_first_layer():
    layers = GAN((1, 32, 32), seed=0).D
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == [
        *["Conv2d", "LeakyReLU", "Conv2d", "BatchNorm2d", "LeakyReLU"],
        *["Flatten", "Linear"],
    ]
    assert layers[0].weight.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("Model", MODELS.values())
def test_refuses_no_noise(Model):
    with pytest.raises(ParameterError, match="latent_dim=0: at least 1"):
        Model(SHAPE, latent_dim=0, seed=0)


def test_names_are_the_papers():
    assert list(end_to_end.MODELS) == ["VAE", "GAN"]
