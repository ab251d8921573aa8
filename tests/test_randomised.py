import os
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file

from latent_scattering import datasets, randomised, whitening
from latent_scattering.errors import ParameterError
from latent_scattering.scattering import Scattering2D
from latent_scattering.whitening import Whitening


def rows(n=1500, p=300, power=0.5, seed=0):
    """Rows whose deviations fall like k^-power, in rotated axes, off the origin."""
    noise = torch.Generator().manual_seed(seed)
    axes, _ = torch.linalg.qr(torch.randn(p, p, generator=noise, dtype=torch.float64))
    deviations = torch.arange(1, p + 1).double() ** -power
    x = torch.randn(n, p, generator=noise, dtype=torch.float64) * deviations
    return x @ axes + 3


def sine(one, other):
    """Of the largest angle between two subspaces: what one has outside the other."""
    Q, R = one.components.double(), other.components.double()
    return float(torch.linalg.matrix_norm(Q - Q @ R.T @ R, 2))


def test_is_the_exact_whitening_to_a_precision_that_grows_with_the_passes():
    x, d = rows(), 32
    exact = whitening.fit(x.split(200), d)
    angles = []
    for n_passes in (3, 4, 5, 6):
        found = randomised.fit(
            lambda: x.split(200), d, n_passes=n_passes, block=48, seed=0
        )
        angles.append(sine(found, exact))
    assert angles == sorted(angles, reverse=True)
    assert angles[-1] < 1e-3
    torch.testing.assert_close(found.eigenvalues, exact.eigenvalues, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.mean, exact.mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        found.total_variance, exact.total_variance, rtol=1e-6, atol=0
    )
    gram = found.components @ found.components.T
    torch.testing.assert_close(gram, torch.eye(d).double(), rtol=0, atol=1e-12)
    z = found.transform(x)
    covariance = z.T @ z / (len(x) - 1)
    torch.testing.assert_close(covariance, torch.eye(d).double(), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("block", "excess"), [(32, 0.03), (40, 0.02)])
def test_three_passes_explain_nearly_all_that_can_be(block, excess):
    """What is left is little more than the least that must be; variances like 1/k²."""
    x, d = rows(power=1.0), 32
    exact = whitening.fit([x], d)
    found = randomised.fit(lambda: x.split(200), d, n_passes=3, block=block, seed=0)
    y = x - x.mean(0)
    kept = (y @ found.components.T.double()).square().sum() / (len(x) - 1)
    least = 1 - float(exact.explained_variance_ratio.sum())
    assert least < 1 - float(kept / exact.total_variance) < (1 + excess) * least
    # What it says of itself is no better than what it does.
    said = float(found.explained_variance_ratio.sum())
    assert said <= float(kept / exact.total_variance) + 1e-6
    assert (found.eigenvalues <= exact.eigenvalues * (1 + 1e-6)).all()
    assert (found.eigenvalues[:8] > exact.eigenvalues[:8] * 0.99).all()


def test_finds_the_components_of_mnist(mnist_root):
    pixels = datasets.load("mnist", "train", n=3000, root=mnist_root).pixels
    S = Scattering2D(2, (28, 28))
    x = torch.cat([S(datasets.to_unit(some)).flatten(1) for some in pixels.split(500)])
    exact = whitening.fit(x.split(500), 256)
    found = randomised.fit(lambda: x.split(500), 256, seed=0)
    assert sine(found, exact) < 1e-3
    torch.testing.assert_close(found.eigenvalues, exact.eigenvalues, rtol=1e-3, atol=0)


@pytest.mark.parametrize("n_passes", [3, 9])
def test_is_exact_where_the_sketch_is_as_long_as_the_rows(n_passes):
    x, d = rows(p=40), 10
    exact = whitening.fit([x], d)
    found = randomised.fit(lambda: [x], d, n_passes=n_passes, block=16, seed=1)
    assert sine(found, exact) < 1e-3
    # Components, not only their span; the largest entry of each is positive.
    torch.testing.assert_close(found.components, exact.components, rtol=0, atol=1e-3)
    torch.testing.assert_close(found.eigenvalues, exact.eigenvalues, rtol=1e-5, atol=0)


def test_fewer_rows_than_coefficients():
    x = rows(n=100)
    exact = whitening.fit([x], 20)
    found = randomised.fit(lambda: x.split(30), 20, seed=0)
    torch.testing.assert_close(found.eigenvalues, exact.eigenvalues, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("n", "p", "d"), [(100, 300, 49), (400, 30, 30), (33, 300, 32), (100, 300, 1)]
)
def test_as_many_components_as_the_data_have_and_one_alone(n, p, d):
    x = rows(n, p)
    if d == 49:  # dimensions of fewer different rows
        x[50:] = x[:50]
    exact = whitening.fit([x], d)
    found = randomised.fit(lambda: x.split(30), d, seed=0)
    assert sine(found, exact) < 1e-4
    torch.testing.assert_close(found.eigenvalues, exact.eigenvalues, rtol=1e-5, atol=0)


def test_sketch_keeps_each_number_once_and_never_joins_those_of_a_group():
    p, m = 50, 12
    omega = randomised._Sketch(p, m, 0, torch.device("cpu"))
    image = omega(torch.eye(p))
    assert image.abs().sum(1).equal(torch.ones(p))
    assert image.abs().amax(1).equal(torch.ones(p))
    assert all(
        len({*some.abs().argmax(1).tolist()}) == len(some) for some in image.split(m)
    )
    assert {-1.0, 1.0} == {*image[image != 0].tolist()}


def test_batches_do_not_matter_and_the_seed_hardly():
    x = rows()
    one = randomised.fit(lambda: [x], 16, seed=0)
    other = randomised.fit(lambda: x.split(7), 16, seed=1)
    torch.testing.assert_close(one.eigenvalues, other.eigenvalues, rtol=1e-4, atol=0)
    assert sine(one, other) < 1e-2


def test_several_processes_return_the_same(tmp_path):
    script = tmp_path / "one_of_two.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys
            import torch
            import torch.distributed as dist
            from safetensors.torch import save_file
            from latent_scattering import randomised
            from test_randomised import rows

            rank, folder = int(sys.argv[1]), sys.argv[2]
            torch.set_num_threads(1)
            dist.init_process_group(
                "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
            )
            mine = rows()[rank::2]
            found = randomised.fit(lambda: mine.split(200), 32, n_passes=4, seed=0)
            tensors = {k: t.contiguous() for k, t in found.tensors().items()}
            save_file(tensors, f"{folder}/{rank}.safetensors")
            dist.destroy_process_group()
            """
        )
    )
    running = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path)],
            env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
        )
        for rank in range(2)
    ]
    assert [process.wait(120) for process in running] == [0, 0]
    one, other = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    assert all(one[name].equal(other[name]) for name in one)
    alone = randomised.fit(lambda: [rows()], 32, n_passes=4, seed=0)
    torch.testing.assert_close(one["eigenvalues"], alone.eigenvalues, rtol=1e-4, atol=0)
    torch.testing.assert_close(one["mean"], alone.mean, rtol=0, atol=1e-6)
    assert sine(Whitening(**one), alone) < 1e-2


@pytest.mark.parametrize(
    ("d", "options", "message"),
    [
        (0, {}, "d=0: 1 … 300"),
        (301, {}, "d=301: 1 … 300"),
        (40, {}, "n=30 images: more than d=40"),
        (4, {"n_passes": 2}, "n_passes=2, block=0: at least 3 passes"),
        (4, {"block": -1}, "block=-1"),
        (8, {"n_passes": 5, "block": 2}, "block=2: .* d=8 columns"),
    ],
)
def test_refuses_sizes_by_name(d, options, message):
    with pytest.raises(ParameterError, match=message):
        randomised.fit(lambda: [rows(n=30)], d, **{"seed": 0, **options})


def test_refuses_more_components_than_the_data_have_dimensions():
    x = rows(n=100)
    x[50:] = x[:50]
    with pytest.raises(ParameterError, match=r"in 49 dimensions only .* d ≤ 49"):
        randomised.fit(lambda: [x], 60, seed=0)


def test_refuses_no_rows_and_rows_that_are_not_finite():
    with pytest.raises(ParameterError, match="no rows"):
        randomised.fit(lambda: [], 4, seed=0)
    x = rows(n=50)
    x[17, 3] = torch.nan
    with pytest.raises(ParameterError, match="row 17 has values that are not finite"):
        randomised.fit(lambda: x.split(10), 4, seed=0)
