# The one runner, on this machine (`snakemake --cores 2`) and on a cluster (`snakemake --executor slurm --jobs 16`).
# It decides which chapters must run again; `python -m lib run` runs each of them.
# `make book` calls it and then builds the pages. For another profile: --config profile=standard

import sys
from pathlib import Path

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT))
from lib.book import chapters, fingerprints

LIBRARY = str(chapters.LIB.parent)  # a copied checkout runs its own code, whatever its environment was made for
PROFILE = config.get("profile", "quick")
EXECUTED = "_build/executed/{profile}/{chapter}.ipynb"


wildcard_constraints:
    profile="[^/]+",
    chapter="[^/.]+",


rule all:
    input:
        expand(EXECUTED, profile=PROFILE, chapter=chapters.names(ROOT)),


rule chapter:
    input:
        source="chapters/{chapter}.py",
        needs=lambda w: expand(EXECUTED, profile=w.profile, chapter=chapters.header(ROOT, w.chapter)["needs"]),
    output:
        EXECUTED,
    params:
        # By content: its code, the files of lib that it imports, the lock, its parameters, its data and what it needs.
        fingerprint=lambda w: fingerprints.fingerprint(ROOT, w.chapter, w.profile),
    benchmark:
        "_build/benchmark/{profile}/{chapter}.tsv"
    # One thread each; a chapter that measures time takes every core, so that nothing runs beside it.
    threads: lambda w: (workflow.cores or 1) if chapters.header(ROOT, w.chapter)["alone"] else 1
    resources:
        mem_mb=3000,
        runtime=60,
    shell:
        "PYTHONPATH={LIBRARY:q} {sys.executable:q} -m lib --root {ROOT:q} run {input.source:q} --profile {wildcards.profile:q}"
