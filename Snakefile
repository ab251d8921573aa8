# Which chapter needs which. papermill, called by `record`, is the only executor.
#   snakemake --cores all --config run=mnist
from latent_scattering import record

NEEDS = {
    "scattering": [],
    "whitening": [],
    "inversion": ["whitening"],
    "normality": ["whitening"],
    "latents": ["inversion"],
    "planar-flows": [],
    "timing": ["latents"],
}
RUN = config.get("run", "digits")


def stamp(wildcards):
    # A chapter is executed again when its stamp changes, and not otherwise.
    return record.stamp(wildcards.run, wildcards.chapter)


rule all:
    input:
        expand("build/records/{run}/{chapter}", run=RUN, chapter=NEEDS),


rule chapter:
    input:
        lambda w: [f"build/records/{w.run}/{need}" for need in NEEDS[w.chapter]],
    output:
        touch("build/records/{run}/{chapter}"),
    params:
        stamp=stamp,
    threads: workflow.cores  # torch uses them all, so one chapter at a time
    shell:
        "python -m latent_scattering.record execute {wildcards.run} {wildcards.chapter}"
