"""Snakemake knows all chapters, and executes them in an order that works."""

import subprocess
import sys
from pathlib import Path

import pytest

from latent_scattering import parameters, paths


@pytest.mark.parametrize("run", ["digits", "mnist"])
def test_all_chapters_are_planned(run, tmp_path):
    snakemake = str(Path(sys.executable).with_name("snakemake"))
    command = [
        *[snakemake, "--dry-run", "--cores", "2", "--forceall", "--nolock"],
        *["--snakefile", str(paths.ROOT / "Snakefile"), "--directory", str(tmp_path)],
        *["--config", f"run={run}"],
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for chapter in parameters.chapters():
        assert f"output: build/records/{run}/{chapter}\n" in done.stdout + done.stderr
