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


def planned(tmp_path, *words):
    """What Snakemake would do."""
    snakemake = str(Path(sys.executable).with_name("snakemake"))
    command = [
        *[snakemake, "--dry-run", "--nolock", "--directory", str(tmp_path)],
        *["--snakefile", str(paths.ROOT / "Snakefile"), *words],
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_a_sweep_is_every_chapter_with_every_seed(tmp_path):
    words = ["--cores", "2", "--config", "run=digits", "seeds=0,7", "--", "sweep"]
    told = planned(tmp_path, *words)
    for chapter in parameters.chapters():
        for seed in (0, 7):
            assert f"output: build/sweep/digits/{seed}/{chapter}.ipynb\n" in told


def test_what_a_sweep_has_done_is_not_done_again(tmp_path):
    words = ["--cores", "2", "--config", "run=digits", "seeds=3", "--", "sweep"]
    for chapter in parameters.chapters():
        if chapter != "timing":
            done = tmp_path / f"build/sweep/digits/3/{chapter}.ipynb"
            done.parent.mkdir(parents=True, exist_ok=True)
            done.touch()
    told = planned(tmp_path, "--rerun-triggers", "mtime", *words)
    assert "output: build/sweep/digits/3/timing.ipynb\n" in told
    assert "output: build/sweep/digits/3/scattering.ipynb\n" not in told


def test_the_profile_for_slurm(tmp_path):
    profile = str(paths.ROOT / "profiles" / "slurm")
    words = ["--profile", profile, "--config", "run=digits", "seeds=0", "--", "sweep"]
    told = planned(tmp_path, *words)
    assert "slurm_extra=--gpus=1" in told
    assert "runtime=240" in told
    assert "mem_mb=8000" in told
