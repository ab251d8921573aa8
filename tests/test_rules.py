"""The rules of the chapters' claims, on numbers that are made up.

A cell that judges is executed by itself, with a chapter that only takes down verdicts.
"""

import numpy as np
import pandas as pd
import pytest
import torch

from latent_scattering import record, scattering
from latent_scattering.intervals import interval, limits, spread_of
from latent_scattering.report import verdict

REPRODUCED, PARTLY, NOT = "reproduced", "partly", "not reproduced"
UNTESTED = "cannot be tested here"


class Chapter:
    """Takes down the verdicts of claims."""

    def __init__(self):
        self.verdicts = {}

    def number(self, *some, **more):
        """Nothing is shown."""

    def claim(self, id, text, *, verdict, **more):
        assert set(more) == {"source", "paper", "measured", "rule"}
        assert all(isinstance(value, str) and value for value in more.values())
        self.verdicts[id] = verdict


def judge(chapter, *claims, **numbers):
    """The verdicts of the cells that judge these claims, and of others they judge."""
    taken = Chapter()
    names = {"np": np, "pd": pd, "torch": torch, "chapter": taken, "verdict": verdict}
    names |= {"interval": interval, "limits": limits, "spread_of": spread_of}
    names |= {"scattering": scattering, **numbers}
    cells = record.read_source(chapter).cells
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    for claim in claims:
        (source,) = (source for source in sources if f'"{claim}"' in source)
        exec(source, names)
    return taken.verdicts


def ablations(**changed):
    """Verdicts, where some cases differ from a base of 20 dB in three seeds."""
    cases = [
        "base",
        "64 images",
        "256 images",
        "d = 100",
        "unit sphere",
        "other network",
    ]
    cases += ["longer", "noise on z", "noise before whitening"]
    index = pd.MultiIndex.from_product([cases, range(3)], names=["case", "seed"])
    plain = {"train": 21.0, "held out": 20.0, "high": 0.5, "high, train": 0.5}
    scores = pd.DataFrame({**plain, "noise": 2.0, "zeros": 0.6}, index=index)
    for case, columns in changed.pop("scores", {}).items():
        for column, values in columns.items():
            scores.loc[case, column] = np.broadcast_to(values, 3)
    names = {
        "scores": scores,
        "few_images": [64, 256],
        "smaller_d": [100],
        "train": range(4096),
        "n_components": 512,
        "n_seeds": 3,
        "ablation_epochs": 15,
        "noisy_epochs": 15,
        "batch_size": 128,
        "n_all": 4096,
        "before_whitening": torch.ones(512),
        "CASES": dict.fromkeys(cases),
        "J": 3,
        "L": 8,
        "direct": [(3, 3.4, 1e-6, 50.0, torch.tensor([50.0]))],
    }
    cells = ("ablations-few-images", "ablations-components", "ablations-noise")
    return judge("ablations", *cells, "ablations-invertible", **names | changed)


@pytest.mark.parametrize(
    ("case", "column", "values", "claim", "expected"),
    [
        ("256 images", "high, train", 0.90, "high-frequencies", REPRODUCED),
        ("256 images", "high, train", 0.89, "high-frequencies", PARTLY),
        ("256 images", "high, train", 0.50, "high-frequencies", NOT),
        ("256 images", "held out", 16.9, "few-images", REPRODUCED),
        ("256 images", "held out", [16.0, 17.0, 17.9], "few-images", PARTLY),
        ("256 images", "held out", [19.0, 20.0, 21.0], "few-images", NOT),
        ("d = 100", "high", 0.41, "components", REPRODUCED),
        ("d = 100", "high", 0.39, "components", PARTLY),  # falls by more than .1
        ("d = 100", "high", 0.51, "components", PARTLY),  # rises
        ("d = 100", "held out", 23.1, "components", NOT),
        ("d = 100", "held out", 16.9, "components", NOT),
        ("unit sphere", "held out", 19.1, "sphere", REPRODUCED),
        ("unit sphere", "held out", 20.9, "sphere", REPRODUCED),
        ("unit sphere", "held out", [18.5, 19.1, 19.7], "sphere", PARTLY),
        ("unit sphere", "held out", 16.9, "sphere", NOT),
        ("other network", "held out", 20.9, "network", REPRODUCED),
        ("other network", "held out", 21.1, "network", PARTLY),
        ("other network", "held out", 23.1, "network", NOT),
        ("noise on z", "noise", 1.5, "noise", REPRODUCED),
        ("noise before whitening", "noise", 1.5, "noise", REPRODUCED),
        ("noise on z", "noise", [1.0, 2.0, 3.0], "noise", NOT),
        ("noise on z", "noise", 2.5, "noise", NOT),
    ],
)
def test_ablations(case, column, values, claim, expected):
    found = ablations(scores={case: {column: values}})
    assert found[f"ablations-{claim}"] == expected


def test_noise_that_costs_quality_helps_partly():
    costly = {"noise": 1.0, "held out": 18.9}
    assert ablations(scores={"noise on z": costly})["ablations-noise"] == PARTLY
    both = {"noise on z": costly, "noise before whitening": {"noise": 1.9}}
    assert ablations(scores=both)["ablations-noise"] == REPRODUCED


def test_other_numbers_of_images_or_components_test_nothing():
    found = ablations(few_images=[64], smaller_d=[99])
    assert found["ablations-components"] == UNTESTED
    assert found["ablations-few-images"] == UNTESTED
    assert found["ablations-high-frequencies"] == UNTESTED


@pytest.mark.parametrize(
    ("direct", "above", "below"),
    [  # α, error left of S, median PSNR
        ([(3.4, 1e-6, 40.0)], REPRODUCED, UNTESTED),
        ([(3.4, 1e-6, 39.9)], NOT, UNTESTED),
        ([(5.0, 1e-6, 60.0), (1.6, 5e-3, 20.0)], PARTLY, UNTESTED),
        ([(0.7, 1e-3, 29.9)], UNTESTED, REPRODUCED),
        ([(0.7, 1e-3, 30.0)], UNTESTED, NOT),
        ([(0.7, 2e-3, 10.0)], UNTESTED, UNTESTED),  # the descent has failed
        ([(0.7, 1e-4, 10.0), (0.2, 2e-3, 10.0)], UNTESTED, PARTLY),
        ([(0.7, 1e-4, 10.0), (0.2, 1e-4, 40.0)], UNTESTED, PARTLY),
        ([(3.4, 1e-6, 50.0), (0.7, 1e-4, 10.0)], REPRODUCED, REPRODUCED),
    ],
)
def test_descent(direct, above, below):
    rows = [
        (3 + i, alpha, left, 0.0, torch.tensor([psnr, psnr, 99.0]))
        for i, (alpha, left, psnr) in enumerate(direct)
    ]
    found = ablations(direct=rows)
    assert found["ablations-invertible"] == above
    assert found["ablations-not-invertible"] == below


@pytest.mark.parametrize(
    ("dataset", "train", "test", "level", "gap"),
    [
        ("polygon5", 42.43, 34.44, REPRODUCED, REPRODUCED),
        ("polygon5", 43.4, 35.4, REPRODUCED, REPRODUCED),
        ("polygon5", 42.4, 32.4, PARTLY, PARTLY),
        ("polygon5", 45.5, 34.4, NOT, PARTLY),
        ("celeba", 25.0, 22.1, REPRODUCED, PARTLY),
        ("celeba", 20.0, 21.0, NOT, NOT),
        ("mnist", 42.43, 34.44, UNTESTED, REPRODUCED),
    ],
)
def test_psnr(dataset, train, test, level, gap):
    numbers = {
        "psnr": {"train": train, "test": test},
        "dataset": dataset,
        "J": 4,
        "n_components": 512,
        "train": range(65_536),
    }
    found = judge("inversion", "inversion-gap", **numbers)
    assert found == {"inversion-psnr": level, "inversion-gap": gap}
    for other in ({"J": 3}, {"n_components": 100}, {"train": range(8192)}):
        found = judge("inversion", "inversion-gap", **numbers | other)
        assert found["inversion-psnr"] == UNTESTED
