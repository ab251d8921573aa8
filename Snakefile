# Which chapter needs which. papermill, called by `record`, is the only executor.
#   snakemake --cores all --config run=mnist
import sys
from pathlib import Path

from latent_scattering import datasets, paths, record
from latent_scattering.errors import UserError

NEEDS = {
    "scattering": [],
    "whitening": [],
    "inversion": ["whitening"],
    "normality": ["whitening"],
    "latents": ["inversion"],
    "planar-flows": [],
    "timing": ["latents"],
    "ablations": ["inversion"],
}
RUN = config.get("run", "digits")
# A sweep: --config run=mnist seeds=0,1,2 with the target `sweep`.
SEEDS = str(config.get("seeds", "0,1,2")).split(",")
try:
    GIVEN = record.load_run(RUN)
    if not all(seed.isdecimal() for seed in SEEDS):
        raise UserError(f"seeds={','.join(SEEDS)}: must be whole numbers, as in 0,1,2")
except UserError as error:
    # Here, since `--quiet all` keeps quiet about errors of this file.
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(1)
# Ziomek & Farrahi's chapters judge samples by a classifier, which wants labels; the
# ablations are those of Angles & Mallat, whose images have none.
DATASET = GIVEN.get("dataset", "digits")
OTHERS = (
    {"ablations"}
    if DATASET in datasets.LABELLED
    else {"latents", "planar-flows", "timing"}
)
CHAPTERS = [chapter for chapter in NEEDS if chapter not in OTHERS]
CPUS = workflow.cores or 8  # cores are not told where a cluster has them
# Of the machine, in MB: 16,384 images of 3×128×128 are 6 GB in float64.
MEMORY = 48_000 if DATASET in ("polygon5", "celeba", "lsun-bedroom") else 8_000


def stamp(wildcards):
    # A chapter is executed again when its stamp changes, and not otherwise.
    return record.stamp(wildcards.run, wildcards.chapter)


# What was executed here counts as long as its record is there, and fresh.
for chapter in CHAPTERS:
    done = Path("build", "records", RUN, chapter)
    if done.exists() and record.freshness(RUN, chapter):
        done.unlink()


rule all:
    input:
        expand("build/records/{run}/{chapter}", run=RUN, chapter=CHAPTERS),


rule chapter:
    input:
        lambda w: [f"build/records/{w.run}/{need}" for need in NEEDS[w.chapter]],
    output:
        touch("build/records/{run}/{chapter}"),
    params:
        stamp=stamp,
    threads: CPUS  # torch uses them all, so one chapter at a time
    resources:
        mem_mb=MEMORY,
        runtime=240,  # minutes
    shell:
        "python -m latent_scattering.record execute {wildcards.run} {wildcards.chapter}"


rule sweep:
    input:
        expand("build/sweep/{run}/{seed}/{chapter}.ipynb", run=RUN, seed=SEEDS, chapter=CHAPTERS),


# The same chapters with other seeds, beside the book. After a kill, finished chapters
# are kept, and a training goes on from its checkpoint in the cache.
rule seed:
    input:
        lambda w: [f"build/sweep/{w.run}/{w.seed}/{need}.ipynb" for need in NEEDS[w.chapter]],
    output:
        "build/sweep/{run}/{seed}/{chapter}.ipynb",
    params:
        stamp=stamp,
    wildcard_constraints:
        seed="\\d+",
    threads: CPUS
    resources:
        mem_mb=MEMORY,
        runtime=240,
    shell:
        "papermill --no-progress-bar -f {paths.RUNS}/{wildcards.run}.yaml"
        " -p seed {wildcards.seed} {paths.NOTEBOOKS}/{wildcards.chapter}.ipynb {output}"
