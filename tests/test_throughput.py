import pytest
import torch
from torch import nn

from latent_scattering import throughput
from latent_scattering.generator import Generator


def test_operations_of_a_step_by_hand():
    """Two operations a weight, forward, for the weight and for the input."""
    network = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    forward, weights, inputs = 5 * 7 + 7 * 3, 5 * 7 + 7 * 3, 7 * 3  # none of the codes
    assert throughput.operations(network, 5) == 2 * (forward + weights + inputs)


def test_operations_leave_the_network_alone():
    G = Generator(6, (1, 8, 8), widths=(8, 4), kernel_size=3, seed=0).eval()
    before = {name: value.clone() for name, value in G.state_dict().items()}
    assert throughput.operations(G, 6) > 0
    assert not G.training
    assert all(weight.grad is None for weight in G.parameters())
    assert all(torch.equal(value, before[n]) for n, value in G.state_dict().items())


def test_rate_is_that_of_the_fastest_product(monkeypatch):
    ticks = iter([0.0, 5.0, 5.0, 7.0, 7.0, 11.0, 11.0, 12.0, 12.0, 15.0])
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(ticks))
    state = torch.get_rng_state()
    rate = throughput.matrix_rate(torch.device("cpu"), torch.float32)
    assert rate == pytest.approx(2 * 1024**3 / 1.0)
    assert torch.equal(torch.get_rng_state(), state)
