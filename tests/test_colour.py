"""The chapters on Angles & Mallat's images, at a size for two cores: all of each."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from latent_scattering import inversion, invert, paths, record, report

SMALL = {
    "run": "polygon5-32",
    "dataset": "polygon5-32",
    "J": 2,
    "n_components": 24,
    "n_train": 200,
    "n_test": 64,
    "n_epochs": 2,
    "ablation_images": 128,
    "ablation_epochs": 1,
    "few_images": [64],
    "smaller_d": [16],
    "scales": [1],
    "n_inverted": 2,
    "n_iterations": 5,
}


@pytest.mark.parametrize(
    ("chapter", "claims"),
    [
        ("scattering", 3),
        ("whitening", 4),
        ("inversion", 6),
        ("normality", 9),
        ("ablations", 8),
    ],
)
def test_chapter_runs_on_images_in_colour(
    chapter, claims, tmp_path, monkeypatch, no_training
):
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    subprocess.run(
        [
            str(Path(sys.executable).with_name("papermill")),
            *["--no-progress-bar", "-f", str(tmp_path / "small.yaml")],
            f"notebooks/{chapter}.ipynb",
            str(tmp_path / "out.ipynb"),
        ],
        cwd=paths.ROOT,
        env=os.environ | {"LATENT_SCATTERING_CACHE": str(tmp_path / "cache")},
        check=True,
        timeout=300,
    )
    last = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[-1]
    (results,) = (o.data[report.MIME] for o in last.outputs if report.MIME in o.data)
    assert len(results["claims"]) == claims
    assert results["provenance"]["parameters"]["J"] == 2
    if chapter == "ablations":  # no two cases or seeds are one training
        kept = {
            kind: len(list((tmp_path / "cache" / kind).glob("*/manifest.json")))
            for kind in ("inversion", "noisy-inversion")
        }
        assert kept == {"inversion": 2 * 6, "noisy-inversion": 2 * 3}
    if chapter == "inversion":  # what several devices would have trained is found
        monkeypatch.setenv("LATENT_SCATTERING_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(record, "load_run", lambda run: SMALL)
        no_training()
        found = invert.invert("polygon5-32", inversion.fabric_of())
        assert len(found.history) == SMALL["n_epochs"]
