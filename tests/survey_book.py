"""A small book with two chapters, their claims and committed results, for tests of pages; small_book.py is for runs."""

import copy
import json
import os
import shutil
import subprocess
from pathlib import Path

import given_builds
import nbformat
import yaml

from lib.book import chapters, fingerprints, last_run

PROJECT = Path(__file__).parents[1]
HEADER = "# ---\n# jupyter:\n#   kernelspec: {display_name: Python 3, language: python, name: python3}\n# ---\n\n"
PAGE = """# %% [markdown]
# # {title}
#
# ```{{claims}} {name}
# ```
#
# ```{{cost}} {name}
# ```
{parts}
"""
INDEX = """# Deep model compression, executed

A book that runs {cite:t}`berthelier2020survey`.

```{headline}
```

## What came out

```{findings}
C2.3-38: How many weights can go?
C2.4-12: How small is the file?
quantization: One network alone
times smaller
on paper = 40 x {cite:p}`han2016deep`
here = quantization.lenet300.file_ratio
```

```{bars} times smaller
here = quantization.lenet300.unknown_ratio
```

```{errata-by-section}
```

```{errata}
```

## Where the book stands

```{state}
```

(reading-a-verdict)=
## How to read a verdict

## How to cite

```{citation}
```
"""
PARTS = {
    "pruning": ["sec-magnitude"],
    "quantization": ["sec-optimal-kmeans", "sec-scalar-kmeans", "sec-deep-compression"],
}
TEXTS = {
    "sec-deep-compression": "The file is {mean}`quantization.lenet300.file_ratio` smaller:"
    " it {finding}`shrinks | quantization.lenet300.file_ratio > 1`, see {verdict}`C2.4-12`."
}
RECORDS = {
    "pruning": {"pruning.lenet300.kept_pct": ([8.0], "%", 1), "pruning.lenet300.removed_pct": ([92.0] * 3, "%", 1)},
    "quantization": {
        "quantization.lenet300.file_ratio": ([19.0, 19.5, 20.0], "x", 1),
        "quantization.lenet300.error_pct": ([3.1, 3.2, 3.3], "%", 2),
        "quantization.lenet300.trained_on_error_pct": ([3.0, 3.1, 3.2], "%", 2),
        "quantization.lenet300.dense_bytes": ([1_066_440.0], "bytes", 0),
        "quantization.lenet300.file_bytes": ([18_000.0, 19_000.0, 20_600.0], "bytes", 0),
        "quantization.lenet300.latency_ratio": ([0.5, 0.6, 0.7], "x", 1),
    },
}
CLAIMS = {
    "pruning": """
- id: C2.3-09
  section: "2.3"
  says: Signorini and others proposed to prune and to retrain.
  kind: historical
  erratum: The method is that of {cite:t}`han2015learning`.
  verdict: not testable here
  because: A sentence about an author.
- id: C2.3-38
  section: "2.3"
  says: Pruning removes a tenth to a third of the weights.
  reported: {value: 10 to 30, unit: "%", source: berthelier2020survey}
  decided_by:
    quick: [{key: pruning.lenet300.removed_pct, between: [10, 30]}]
  verdict: contradicted
""",
    "quantization": """
- id: C2.4-12
  section: "2.4"
  says: Pruning, sharing and Huffman codes make the file of a LeNet much smaller, see {verdict}`C2.3-38`.
  reported: {value: 40, unit: x, where: Table 1, source: han2016deep}
  decided_by:
    quick:
      - {key: quantization.lenet300.file_ratio, at_least: 15}
      - {key: quantization.lenet300.error_pct, at_most: 1, above: quantization.lenet300.trained_on_error_pct}
      - {key: quantization.lenet300.latency_ratio, at_most: 1}
    standard: [{key: quantization.lenet300.file_ratio, at_least: 40}]
  verdict: supported
  elsewhere: [supported in part]
- id: C2.4-13
  section: "2.4"
  says: A claim of the standard profile alone.
  decided_by:
    standard: [{key: quantization.lenet300.file_ratio, at_least: 40}]
  verdict: supported
""",
}


def results(chapter: str, profile: str, *, better: float = 0.0) -> str:
    """What a chapter measured in a profile, each value larger by ``better``."""
    records = {
        key: {"values": [value + better for value in values], "unit": unit, "digits": digits}
        | ({"timing": True} if "latency" in key else {})
        for key, (values, unit, digits) in RECORDS[chapter].items()
    }
    data = [{"name": "digits", "source": "scikit-learn", "train": 1078, "validation": 269, "test": 450}]
    return json.dumps({"chapter": chapter, "profile": profile, "data": data, "records": records})


def tiny_book(root: Path) -> Path:
    """Write the book, with finished runs of its chapters, and return its folder."""
    shutil.copytree(PROJECT / "_static", root / "_static")
    for page in ("CITATION.cff", "claims.md", "techniques.md", "references.md"):
        shutil.copy(PROJECT / page, root / page)
    (root / "index.md").write_text(INDEX)
    (root / "reproduce.md").write_text("# Run it yourself\n\n```{clone}\n```\n")
    config = yaml.safe_load((PROJECT / "_config.yml").read_text("utf-8"))
    (root / "_config.yml").write_text(yaml.safe_dump(config))
    pages = ["chapters/pruning", "chapters/quantization", "claims", "techniques", "references", "reproduce"]
    toc = {"format": "jb-book", "root": "index", "chapters": [{"file": page} for page in pages]}
    (root / "_toc.yml").write_text(yaml.safe_dump(toc))
    (root / "survey" / "claims").mkdir(parents=True)
    for name in ("references.bib", "techniques.yml"):
        shutil.copy(PROJECT / "survey" / name, root / "survey" / name)
    catalogue = yaml.safe_load((root / "survey" / "techniques.yml").read_text("utf-8"))
    parts = [anchor for anchors in PARTS.values() for anchor in anchors]
    catalogue = [row for row in catalogue if row["anchor"] in parts]
    for row in catalogue:
        row["claims"] = ["C2.4-12"] if row["id"] == "deep-compression" else []
    (root / "survey" / "techniques.yml").write_text(yaml.safe_dump(catalogue))
    (root / "results").mkdir()
    cells = {"LSTM": {"state": "works", "seconds": 0, "says": "3 of 3 weights"}}
    (root / "results" / "networks.json").write_text(json.dumps({"deep-compression": {"code": "0", "networks": cells}}))
    (root / "profiles").mkdir()
    (root / "profiles" / "quick.yml").write_text("{}\n")
    (root / "chapters").mkdir()
    for chapter, labels in PARTS.items():
        (root / "survey" / "claims" / f"{chapter}.yml").write_text(CLAIMS[chapter])
        parts = "".join(f"#\n# ({label})=\n# ## Part {label}\n#\n# {TEXTS.get(label, 'Text.')}\n" for label in labels)
        page = HEADER + PAGE.format(title=chapter.capitalize(), name=chapter, parts=parts)
        (root / "chapters" / f"{chapter}.py").write_text(page)
        for profile, better in (("quick", 0.0), ("standard", 30.0)):
            folder = last_run.built_results if profile == "quick" else last_run.committed_results
            path = folder(root, profile) / f"{chapter}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(results(chapter, profile, better=better))
    for chapter in PARTS:
        stamp_run(root, chapter)
    (root / "chapters" / "pruning.ipynb").write_text("{}")  # a reader's own copy: the build does not look at it
    return root


def stamp_run(root: Path, chapter: str) -> None:
    """Leave what a good run of the chapter leaves."""
    done = copy.deepcopy(chapters.notebook(root, chapter))
    measured = {"seconds": 12.3, "peak_mib": 410, "data": [], "processor": "a processor"}
    measured["versions"] = {"python": "3.11", "torch": "2.13.0"}
    done.metadata["survey"] = fingerprints.fingerprint(root, chapter, "quick") | measured
    path = last_run.output(root, chapter, "quick")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(nbformat.writes(done))


def build(root: Path, **variables: str) -> subprocess.CompletedProcess:
    """Build the pages with every warning an error, with these variables in the environment."""
    command = ["build", str(root), "-W", "-n", "--keep-going", "--all", "-q"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "SURVEY_PROFILE": "quick", "NO_COLOR": "1"} | variables
    return given_builds.run(command, root, environment)
