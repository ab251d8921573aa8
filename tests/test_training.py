import os
import subprocess
import sys

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from latent_scattering import store, training
from latent_scattering.errors import ParameterError, TrainingError
from latent_scattering.generator import Generator

ARGUMENTS = {"batch_size": 8, "learning_rate": 1e-2, "seed": 3}


pytestmark = pytest.mark.usefixtures("one_thread")


def data(n=30):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(n, 5, generator=generator)
    return z, torch.rand(n, 1, 8, 8, generator=generator)


def network():
    """Four-dimensional weights, and buffers (batch norm) besides weights."""
    return Generator(5, (1, 8, 8), widths=(6, 4), kernel_size=3, seed=0)


def noisy_loss(model, batch, generator):
    """As a VAE's: noise comes from the generator."""
    z, x = batch
    noise = torch.randn(z.shape, generator=generator, device=z.device)
    return (model(z + 0.1 * noise) - x).abs().mean()


def vector(model):
    return torch.cat([t.double().flatten() for t in model.state_dict().values()])


def fit(model, n_epochs, **changed):
    arguments = {**ARGUMENTS, "n_epochs": n_epochs, **changed}
    loss = arguments.pop("loss", noisy_loss)
    return training.fit(model, loss, data(), **arguments)


@pytest.fixture
def always_save(monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)


class Interrupting:
    """A loss that is interrupted, as by Ctrl-C, at its n-th batch."""

    def __init__(self, at):
        self.left = at

    def __call__(self, model, batch, generator):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return noisy_loss(model, batch, generator)


def test_is_adam_on_the_batches_of_an_epoch():
    """The same by hand, with torch's Adam and whatever order the loss has seen."""
    seen = []

    def loss(model, batch, generator):
        seen.append(batch[0].clone())
        return (model(batch[0])[:, 0] - batch[1]).square().mean()

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(21, 3, generator=generator)
    y = x @ torch.tensor([1.0, -2.0, 0.5])
    model, twin = nn.Linear(3, 1), nn.Linear(3, 1)
    twin.load_state_dict(model.state_dict())
    history = training.fit(model, loss, (x, y), n_epochs=2, **ARGUMENTS)
    adam = torch.optim.Adam(twin.parameters(), lr=1e-2)
    losses = []
    for batch in seen:
        adam.zero_grad()
        value = (twin(batch)[:, 0] - batch @ torch.tensor([1.0, -2.0, 0.5])).square()
        value.mean().backward()
        adam.step()
        losses.append(value.sum().item())
    torch.testing.assert_close(vector(model), vector(twin))
    assert history.loss.tolist() == pytest.approx(
        [sum(losses[:3]) / 21, sum(losses[3:]) / 21]
    )


def test_an_epoch_has_every_example_once_in_another_order():
    seen = []

    def loss(model, batch, generator):
        seen.append(batch[0])
        return model(batch[0].float()).sum()

    training.fit(
        nn.Linear(1, 1), loss, (torch.arange(30)[:, None],), n_epochs=2, **ARGUMENTS
    )
    assert [len(b) for b in seen] == [8, 8, 7, 7] * 2
    first, second = torch.cat(seen[:4])[:, 0], torch.cat(seen[4:])[:, 0]
    assert first.sort().values.tolist() == second.sort().values.tolist()
    assert first.sort().values.tolist() == list(range(30))
    assert first.tolist() != second.tolist() != list(range(30))


def test_learns_and_ends_in_evaluation_mode():
    model = network()
    history = fit(model, 30)
    assert history.loss.iloc[-1] < 0.6 * history.loss.iloc[0]
    assert not any(m.training for m in model.modules())


def test_seed_decides_order_and_noise_and_nothing_global_does():
    weights = []
    for seed, global_seed in [(3, 0), (3, 1), (4, 0)]:
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        model = network()
        fit(model, 2, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        weights.append(vector(model))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_history():
    values = iter([1.0, 2.0, 3.0])
    modes = []

    def validate(model):
        modes.append((model.training, torch.is_grad_enabled()))
        return {"score": next(values)}

    history = fit(network(), 3, validate=validate)
    assert list(history) == ["epoch", "loss", "score", "seconds", "training_seconds"]
    assert history.epoch.tolist() == [1, 2, 3]
    assert history.score.tolist() == [1.0, 2.0, 3.0]
    assert modes == [(False, False)] * 3
    assert history.seconds.is_monotonic_increasing
    assert (history.seconds > history.training_seconds).all()


@pytest.mark.parametrize("at", [1, 4, 7, 10, 16])
def test_resumes_to_the_same_weights(at, tmp_path, always_save):
    """Interrupted in the middle of an epoch (4 batches each), or at its beginning."""
    whole, part = network(), network()
    history = fit(whole, 4)
    with pytest.raises(KeyboardInterrupt):
        fit(part, 4, loss=Interrupting(at), workspace=tmp_path)
    again = network()  # a new process: nothing but the checkpoint is left
    batches = []

    def counting(*arguments):
        batches.append(1)
        return noisy_loss(*arguments)

    resumed = fit(again, 4, loss=counting, workspace=tmp_path)
    assert len(batches) == 4 * (4 - (at - 1) // 4)
    assert torch.equal(vector(again), vector(whole))
    assert resumed.loss.tolist() == history.loss.tolist()
    assert resumed.epoch.tolist() == [1, 2, 3, 4]
    assert resumed.seconds.is_monotonic_increasing


def test_restores_weights_history_and_evaluation_mode():
    torch.manual_seed(0)
    fitted = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    rows = [{"epoch": 1, "loss": 0.5}]
    made = store.Artefact("", store.state(fitted), {"history": rows})
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    history = training.restored(network, made)
    assert not any(part.training for part in network.modules())
    torch.testing.assert_close(network[0].weight, fitted[0].weight)
    assert history.to_dict("records") == rows


def test_goes_on_from_a_finished_training(tmp_path):
    whole = network()
    fit(whole, 5)
    first, then = network(), network()
    fit(first, 2, workspace=tmp_path)
    fit(then, 5, workspace=tmp_path)
    assert torch.equal(vector(then), vector(whole))
    with pytest.raises(ParameterError, match=r"n_epochs=3: .* has 5 epochs already"):
        fit(network(), 3, workspace=tmp_path)


def test_checkpoints_are_rare_but_the_last_is_there(tmp_path, monkeypatch):
    epochs = []
    write = store.write

    def spy(folder, tensors, manifest):
        epochs.append(len(manifest["history"]))
        write(folder, tensors, manifest)

    monkeypatch.setattr(store, "write", spy)
    fit(network(), 4, workspace=tmp_path)
    assert epochs == [4]


def test_damaged_checkpoint_is_reported_and_training_starts_again(
    tmp_path, capsys, always_save
):
    whole = network()
    fit(whole, 3)
    with pytest.raises(KeyboardInterrupt):
        fit(network(), 3, loss=Interrupting(10), workspace=tmp_path)
    file = tmp_path / "checkpoint" / store.TENSORS
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    capsys.readouterr()
    again = network()
    fit(again, 3, workspace=tmp_path)
    assert "damaged (its checksum differs)" in capsys.readouterr().err
    assert torch.equal(vector(again), vector(whole))


def test_refuses_the_checkpoint_of_another_training(tmp_path):
    fit(network(), 1, workspace=tmp_path)
    with pytest.raises(ParameterError, match=r"'learning_rate': 0\.01.* not .*0\.1"):
        fit(network(), 2, workspace=tmp_path, learning_rate=0.1)


def test_stops_at_the_first_loss_that_is_not_finite(tmp_path, always_save):
    batches = []

    def loss(model, batch, generator):
        batches.append(1)
        value = noisy_loss(model, batch, generator)
        return value * float("nan") if len(batches) == 10 else value

    with pytest.raises(TrainingError) as caught:
        fit(network(), 5, loss=loss, workspace=tmp_path)
    message = str(caught.value)
    assert message.startswith("the loss is nan at epoch 3, batch 2: try a smaller")
    assert "\n" not in message
    assert len(batches) == 12  # seen at the end of the epoch at the latest
    tensors, manifest = store.read(tmp_path / "checkpoint")
    assert len(manifest["history"]) == 2
    assert all(t.isfinite().all() for t in tensors.values())


def test_divergence_keeps_the_last_good_weights(tmp_path):
    batches = []

    def loss(model, batch, generator):
        batches.append(1)
        value = noisy_loss(model, batch, generator)
        return value * float("nan") if len(batches) == 10 else value

    good = network()
    fit(good, 2)
    model = network()
    with pytest.raises(TrainingError, match="at epoch 3"):
        fit(model, 5, loss=loss, workspace=tmp_path)
    assert torch.equal(vector(model), vector(good))
    assert not model.training
    # No checkpoint was due yet, and yet one is there.
    tensors, manifest = store.read(tmp_path / "checkpoint")
    assert len(manifest["history"]) == 2
    assert torch.equal(tensors["model.linear.weight"], good.linear.weight)


def test_stops_within_a_long_epoch(monkeypatch):
    monkeypatch.setattr(training, "CHECK_BATCHES", 2)
    batches = []

    def loss(model, batch, generator):
        batches.append(1)
        return noisy_loss(model, batch, generator) * float("inf")

    with pytest.raises(TrainingError, match="the loss is inf at epoch 1, batch 1"):
        fit(network(), 1, loss=loss, batch_size=2)
    assert len(batches) == 2


def test_stops_at_weights_that_are_not_finite(tmp_path):
    def loss(model, batch, generator):
        # A finite loss whose gradient is not: √ at 0.
        return noisy_loss(model, batch, generator) + (model(batch[0]) * 0).sum().sqrt()

    with pytest.raises(TrainingError, match="some weights are not finite at epoch 1"):
        fit(network(), 1, loss=loss, batch_size=30, workspace=tmp_path)
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize(
    ("scores", "patience", "min_delta", "epochs"),
    [
        ([1, 2, 3, 2, 3, 2, 9], 3, 0.0, 6),  # equal to the best is not above it
        ([1, 2, 3, 2, 4, 2, 9], 3, 0.0, 7),
        ([1, 1.4, 1.8, 2.2, 2.3, 9, 9], 2, 0.5, 5),
        ([float("nan")] * 7, 2, 0.0, 2),
        ([3, 2, 1, 0, 0, 0, 0], 0, 0.0, 7),
    ],
)
@pytest.mark.parametrize("interrupted", [False, True])
def test_early_stop(
    scores, patience, min_delta, epochs, interrupted, tmp_path, always_save
):
    left = list(scores)
    arguments = {
        "validate": lambda model: {"score": left.pop(0)},
        "monitor": "score",
        "patience": patience,
        "min_delta": min_delta,
        "workspace": tmp_path,
    }
    if interrupted:
        with pytest.raises(KeyboardInterrupt):
            fit(network(), 7, loss=Interrupting(6), **arguments)
    model = network()
    assert len(fit(model, 7, **arguments)) == epochs
    straight = network()
    fit(straight, epochs)
    assert torch.equal(vector(model), vector(straight))  # of the last, not the best
    assert len(fit(network(), 7, **arguments)) == epochs  # it has stopped for good


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_epochs": 0}, "n_epochs=0: at least 1"),
        ({"batch_size": 0}, "batch_size=0: at least 1"),
        ({"learning_rate": 0.0}, r"learning_rate=0\.0: must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"seed": -1}, "seed=-1"),
        ({"patience": -1}, "patience=-1"),
        ({"patience": 2}, "patience=2: monitor must name"),
        (
            {"patience": 2, "monitor": "a", "validate": lambda model: {"b": 1.0}},
            "monitor='a': validate gives b",
        ),
    ],
)
def test_refusals(changed, message):
    with pytest.raises(ParameterError, match=message):
        fit(network(), **{"n_epochs": 1, **changed})


@pytest.mark.parametrize(
    "tensors", [(), (torch.zeros(0, 5),), (torch.zeros(3, 5), torch.zeros(4))]
)
def test_refuses_data_of_different_lengths(tensors):
    with pytest.raises(ParameterError, match="data of lengths"):
        training.fit(network(), noisy_loss, tensors, n_epochs=1, **ARGUMENTS)


def test_bfloat16_comes_from_fabric():
    dtypes = []

    def loss(model, batch, generator):
        value = noisy_loss(model, batch, generator)
        hook.remove()
        return value

    model = network()
    hook = model.linear.register_forward_hook(lambda m, i, o: dtypes.append(o.dtype))
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    history = fit(model, 2, loss=loss, fabric=fabric)
    assert dtypes == [torch.bfloat16]
    assert model.linear.weight.dtype == torch.float32
    assert history.loss.iloc[-1] < history.loss.iloc[0]


@pytest.mark.parametrize("silent", [False, True])
def test_progress_is_on_stderr(silent):
    script = (
        "import torch; from torch import nn; from latent_scattering import training;"
        "training.fit(nn.Linear(2, 1), lambda m, b, g: m(b[0]).mean(),"
        " (torch.ones(9, 2),), n_epochs=2, batch_size=4, seed=0, label='net',"
        " validate=lambda m: {'score': 1.5})"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TQDM_DISABLE"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=environment | ({"TQDM_DISABLE": "1"} if silent else {}),
        check=True,
    )
    assert done.stdout == ""
    if silent:
        assert done.stderr == ""
    else:
        for part in ("net: 100%", "6/6", "epoch=2/2", "loss=", "score=1.5"):
            assert part in done.stderr
