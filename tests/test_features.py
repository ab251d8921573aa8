import pytest
import torch

from latent_scattering import datasets, features, training
from latent_scattering.errors import ParameterError
from latent_scattering.features import CHUNK, Network
from latent_scattering.pixels import to_signed, to_unit
from latent_scattering.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")
ARGUMENTS = {"n_epochs": 2, "batch_size": 10, "learning_rate": 3e-3, "seed": 0}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    train = datasets.load("digits", "train")
    return features.fit(
        (train.pixels, train.labels),
        n_epochs=6,
        seed=0,
        store=Store(tmp_path_factory.mktemp("cache")),
        inputs=[train.digest],
    )


def bright(n=60, shape=(1, 8, 8), n_classes=3, seed=0):
    """Images whose class is their brightness."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(n_classes, (n,), generator=generator)
    labels[:n_classes] = torch.arange(n_classes)
    noise = torch.randint(40, (n, *shape), generator=generator)
    return (80 * labels.view(-1, 1, 1, 1) + noise).to(torch.uint8), labels


def fit(root, train=None, inputs=("images",), **changed):
    return features.fit(
        train or bright(),
        store=Store(root),
        inputs=list(inputs),
        **{**ARGUMENTS, **changed},
    )


def vector(model):
    return torch.cat([t.double().flatten() for t in model.state_dict().values()])


def test_learns_digits(digits):
    test = datasets.load("digits", "test")
    # .972 … .981 with four seeds; ten epochs give .98.
    assert digits.accuracy(test.pixels, test.labels) >= 0.95
    assert digits.n_classes == 10 and digits.shape == (1, 32, 32)
    assert list(digits.history)[:2] == ["epoch", "loss"]
    assert digits.history.loss.iloc[-1] < 0.2 < digits.history.loss[0]
    assert digits.seconds == digits.history.seconds.iloc[-1] > 0
    assert not any(m.training for m in digits.network.modules())


def test_features_and_probabilities_are_the_networks(digits):
    pixels = datasets.load("digits", "test").pixels[:20]
    hidden = digits.features(pixels)
    assert (
        hidden.shape == (20, 64) and (hidden >= 0).all() and (hidden > 0).any(1).all()
    )
    assert not hidden.requires_grad
    network = digits.network
    logits = network.classes(hidden)
    torch.testing.assert_close(network(to_unit(pixels)), logits)
    expected = logits.exp() / logits.exp().sum(1, keepdim=True)
    torch.testing.assert_close(digits.probabilities(pixels), expected.detach())
    labels = logits.argmax(1)
    labels[:5] = (labels[:5] + 1) % 10
    assert digits.accuracy(pixels, labels) == 0.75


def test_generated_images_pass_by_the_path_of_real_ones(digits):
    pixels = datasets.load("digits", "test").pixels[:20]
    generator = torch.Generator().manual_seed(0)
    within = 0.98 * (torch.rand(pixels.shape, generator=generator) - 0.5) / 127.5
    images = to_signed(pixels) + within  # less than half a byte away
    assert torch.equal(digits.features(images), digits.features(pixels))
    assert torch.equal(digits.features(images.double()), digits.features(pixels))
    assert torch.equal(digits.probabilities(images), digits.probabilities(pixels))


def test_chunks(digits, monkeypatch):
    pixels = datasets.load("digits", "test").pixels[:20]
    whole = digits.features(pixels), digits.probabilities(pixels)
    assert len(pixels) < CHUNK
    monkeypatch.setattr(features, "CHUNK", 7)
    torch.testing.assert_close(digits.features(pixels), whole[0])
    torch.testing.assert_close(digits.probabilities(pixels), whole[1])


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 14), (3, 32, 32)])
def test_shapes(shape, tmp_path):
    made = fit(tmp_path, bright(60, shape), n_epochs=12)
    test = bright(20, shape, seed=1)
    assert made.features(test[0]).shape == (20, 64)
    assert made.probabilities(test[0]).shape == (20, 3)
    assert made.accuracy(*test) > 0.8


def test_one_seed_one_network(tmp_path, monkeypatch):
    one, same = fit(tmp_path / "a").network, fit(tmp_path / "b").network
    assert torch.equal(vector(one), vector(same))
    assert not torch.equal(vector(one), vector(fit(tmp_path, seed=1).network))
    starts = [vector(Network((1, 8, 8), 3, seed=seed)) for seed in (0, 0, 1)]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])

    # The seed is that of the initial weights and of the order of the images, both.
    def started(model, *arguments, seed, **more):
        assert seed == 1 and torch.equal(vector(model), starts[2])
        raise InterruptedError

    monkeypatch.setattr(training, "fit", started)
    with pytest.raises(InterruptedError):
        fit(tmp_path / "c", seed=1)


def test_is_kept(tmp_path, no_training):
    made = fit(tmp_path)
    no_training()
    again = fit(tmp_path)
    pixels, labels = bright()
    assert torch.equal(again.features(pixels), made.features(pixels))
    assert again.history.equals(made.history)
    assert (again.key, again.seconds) == (made.key, made.seconds)
    for changed in (
        {"n_epochs": 3},
        {"batch_size": 15},
        {"learning_rate": 1e-3},
        {"seed": 1},
        {"inputs": ["others"]},
        {"train": (pixels, labels.flip(0))},
        {"train": bright(shape=(1, 8, 9))},
    ):
        with pytest.raises(AssertionError):
            fit(tmp_path, **changed)


def test_interrupted_and_resumed_is_the_same(tmp_path, interrupted):
    whole = fit(tmp_path / "whole")
    batches = interrupted(features, "_loss", 8)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "part")
    part = fit(tmp_path / "part")
    assert len(batches) == 8 + 6  # the first epoch is not trained again
    assert torch.equal(vector(part.network), vector(whole.network))


def test_refused_training_sets(tmp_path):
    pixels, labels = bright()
    for train, message in (
        ((pixels, None), "^this data set has no labels .* codes z instead$"),
        ((pixels[..., :7], labels), "^images of 8×7: sides of at least 8"),
        ((pixels, labels - 1), r"^labels \[-1, 0, 1\]: two classes or more"),
        ((pixels, 0 * labels), r"^labels \[0\]: two"),
        ((pixels[:0], labels[:0]), r"^labels \[\]: two"),
    ):
        with pytest.raises(ParameterError, match=message):
            fit(tmp_path, train)
    with pytest.raises(ParameterError, match="n_epochs=0"):
        fit(tmp_path, n_epochs=0)


def test_refused_images(tmp_path):
    made = fit(tmp_path)
    images = to_signed(bright()[0])
    for given, message in (
        (images[..., :4], "^images 60×1×8×4: n×1×8×8 are allowed"),
        (images[:0], "^images 0×1×8×8"),
        (images * torch.nan, "values that are not finite"),
    ):
        for call in (made.features, made.probabilities):
            with pytest.raises(ParameterError, match=message):
                call(given)
