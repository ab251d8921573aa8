"""Bad input ends in one clear line and a non-zero exit, by the README's commands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from latent_scattering import paths


def papermill(chapter, folder, *arguments, **environment):
    command = [
        str(Path(sys.executable).with_name("papermill")),
        f"notebooks/{chapter}.ipynb",
        str(folder / "out.ipynb"),
        *arguments,
    ]
    done = subprocess.run(
        command,
        cwd=paths.ROOT,
        env=os.environ | {"LATENT_SCATTERING_CACHE": str(folder)} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "n_componets", "100"], "did you mean n_components?"),
        (["-p", "n_components", "-5"], "n_components = -5: input should be greater"),
        (["-p", "J", "7"], "J = 7"),
        (["-p", "dataset", "minst"], "minst"),
        (["-y", "n_trian: 100"], "did you mean n_train?"),
    ],
)
def test_bad_parameters(arguments, message, tmp_path):
    status, line = papermill("whitening", tmp_path, *arguments)
    assert status != 0
    assert line.startswith("ParameterError: ") and message in line


def test_corrupt_data_file(tmp_path):
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03 too short")
    data = str(tmp_path / "data")
    status, line = papermill(
        "whitening", tmp_path, "-p", "dataset", "mnist", LATENT_SCATTERING_DATA=data
    )
    assert status != 0
    assert line.startswith("DataError: ") and "train-images-idx3-ubyte" in line
