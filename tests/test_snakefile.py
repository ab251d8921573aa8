"""Snakemake knows all chapters, and executes them in an order that works."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from latent_scattering import parameters, paths

WITH_LABELS = set(parameters.chapters()) - {"ablations"}
IN_COLOUR = set(parameters.chapters()) - {"latents", "planar-flows", "timing"}


def snakemake(tmp_path, *words, snakefile=paths.ROOT / "Snakefile", **environment):
    """What Snakemake says."""
    command = [
        *[str(Path(sys.executable).with_name("snakemake")), "--nolock"],
        *["--directory", str(tmp_path), "--snakefile", str(snakefile), *words],
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | environment,
    )
    return done.stdout + done.stderr


def planned(tmp_path, *words, **more):
    """What Snakemake would do."""
    return snakemake(tmp_path, "--dry-run", *words, **more)


@pytest.mark.parametrize(
    ("run", "chapters"),
    [
        ("digits", WITH_LABELS),
        ("mnist", WITH_LABELS),
        ("polygon5", IN_COLOUR),
        ("celeba", IN_COLOUR),
    ],
)
def test_the_chapters_that_suit_a_run_are_planned(run, chapters, tmp_path):
    told = planned(tmp_path, "--cores", "2", "--forceall", "--config", f"run={run}")
    for chapter in parameters.chapters():
        line = f"output: build/records/{run}/{chapter}\n"
        assert (line in told) == (chapter in chapters)


def test_a_sweep_is_every_chapter_with_every_seed(tmp_path):
    words = ["--cores", "2", "--config", "run=digits", "seeds=0,7", "--", "sweep"]
    told = planned(tmp_path, *words)
    for chapter in WITH_LABELS:
        for seed in (0, 7):
            assert f"output: build/sweep/digits/{seed}/{chapter}.ipynb\n" in told


def test_what_a_sweep_has_done_is_not_done_again(tmp_path):
    words = ["--cores", "2", "--config", "run=digits", "seeds=3", "--", "sweep"]
    for chapter in WITH_LABELS:
        if chapter != "timing":
            done = tmp_path / f"build/sweep/digits/3/{chapter}.ipynb"
            done.parent.mkdir(parents=True, exist_ok=True)
            done.touch()
    told = planned(tmp_path, "--rerun-triggers", "mtime", *words)
    assert "output: build/sweep/digits/3/timing.ipynb\n" in told
    assert "output: build/sweep/digits/3/scattering.ipynb\n" not in told


def test_a_sweep_does_again_what_has_changed(tmp_path):
    papermill = tmp_path / "bin" / "papermill"
    papermill.parent.mkdir()
    papermill.write_text("#!/bin/sh\nfor last; do :; done\ntouch $last\n")
    papermill.chmod(0o755)
    stamped = tmp_path / "Snakefile"
    stamped.write_text(
        f"""
import os
from latent_scattering import record
record.stamp = lambda run, chapter: {{"code": os.environ["CODE"]}}
include: {str(paths.ROOT / "Snakefile")!r}
"""
    )
    made = "build/sweep/digits/3/scattering.ipynb"
    words = ["--cores", "1", "--config", "run=digits", "seeds=3", "--", made]
    path = f"{papermill.parent}{os.pathsep}{os.environ['PATH']}"
    snakemake(tmp_path, *words, snakefile=stamped, PATH=path, CODE="old")
    for code, again in {"old": False, "new": True}.items():
        told = planned(tmp_path, *words, snakefile=stamped, CODE=code)
        assert (f"output: {made}\n" in told) == again


def test_a_chapter_whose_record_is_not_there_is_executed_again(tmp_path):
    chapters = ("scattering", "whitening")
    for chapter in chapters:  # executed once; of this run nothing is recorded
        done = tmp_path / "build/records/lfw" / chapter
        done.parent.mkdir(parents=True, exist_ok=True)
        done.touch()
    told = planned(tmp_path, "--cores", "2", "--config", "run=lfw")
    for chapter in chapters:
        assert f"output: build/records/lfw/{chapter}\n" in told


@pytest.mark.parametrize(
    ("config", "what"),
    [(["run=mnsit"], "allowed: celeba"), (["run=digits", "seeds=0,a"], "0,1,2")],
)
def test_a_mistyped_run_ends_in_one_line(config, what, tmp_path):
    words = ["--cores", "2", "--quiet", "all", "--config", *config]
    with pytest.raises(subprocess.CalledProcessError) as caught:
        planned(tmp_path, *words)
    (line,) = caught.value.stderr.splitlines()
    assert what in line


def test_large_images_are_given_more_memory(tmp_path):
    told = planned(tmp_path, "--cores", "2", "--config", "run=polygon5")
    assert "mem_mb=48000" in told


@pytest.mark.parametrize(
    ("name", "words", "resources"),
    [
        ("slurm", [], ["slurm_extra=--gpus=1"]),
        # The claim that it mounts is not here.
        ("kubernetes", ["--default-storage-prefix", "."], ["gpu=1", "scale=0"]),
    ],
)
def test_the_profiles_for_clusters(name, words, resources, tmp_path):
    profile = str(paths.ROOT / "profiles" / name)
    words = ["--profile", profile, *words, "--config", "run=digits", "seeds=0"]
    told = planned(tmp_path, *words, "--", "sweep")
    for chapter in WITH_LABELS:
        assert f"digits/0/{chapter}.ipynb" in told
    for resource in ("mem_mb=8000", "runtime=240", *resources):
        assert resource in told
