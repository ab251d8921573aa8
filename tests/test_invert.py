"""The command that trains a run's generator on several devices."""

import os
import subprocess
import sys

SCRIPT = """
import sys
import torch
from latent_scattering import invert, record

load = record.load_run
small = {"n_train": 64, "n_test": 32, "n_components": 8, "n_epochs": 2}
record.load_run = lambda run: load(run) | small
torch.set_num_threads(1)
sys.exit(invert.main())
"""


def command(folder, *arguments):
    (folder / "small.py").write_text(SCRIPT)
    return subprocess.run(
        [sys.executable, str(folder / "small.py"), *arguments],
        env=os.environ | {"LATENT_SCATTERING_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=180,
    )


def test_two_devices_train_and_one_of_them_speaks(tmp_path):
    done = command(tmp_path, "digits", "--devices", "2")
    assert done.returncode == 0
    (line,) = (line for line in done.stdout.splitlines() if "dB" in line)
    assert line.startswith("digits: ") and "after 2 epochs" in line
    assert done.stderr.count("100%") >= 1
    bars = {part for part in done.stderr.split("\r") if part.startswith("inversion:")}
    assert len([part for part in bars if " 1/4 " in part]) <= 1
    assert len(list((tmp_path / "cache" / "inversion").glob("*/manifest.json"))) == 1


def test_refusals_are_one_line(tmp_path):
    done = command(tmp_path, "mnits", "--devices", "2")
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if "Error" in line]
    assert len(lines) == 1
    assert lines[0].startswith("ParameterError: mnits: there is no such run")
    done = command(tmp_path, "digits", "--devices", "0")
    assert done.returncode == 2
    assert done.stderr.endswith("--devices 0: at least 1 is allowed\n")
