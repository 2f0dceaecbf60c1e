"""The directives on real pages: a tiny book with two ledgers, built with every warning an error."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup

from lib.book import chapters, fingerprints, last_run

PROJECT = Path(__file__).parents[2]
BUILD = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
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
PARTS = {
    "pruning": ["sec-magnitude"],
    "quantization": ["sec-optimal-kmeans", "sec-scalar-kmeans", "sec-deep-compression"],
}
RECORDS = {
    "pruning": {"pruning.lenet300.kept_pct": ([8.0], "%", 1), "pruning.lenet300.removed_pct": ([92.0], "%", 1)},
    "quantization": {
        "quantization.lenet300.file_ratio": ([19.0, 19.5, 20.0], "x", 1),
        "quantization.lenet300.error_pct": ([3.1, 3.2, 3.3], "%", 2),
        "quantization.lenet300.baseline_error_pct": ([3.0, 3.1, 3.2], "%", 2),
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
      - {key: quantization.lenet300.error_pct, at_most: 1, above: quantization.lenet300.baseline_error_pct}
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
    records = {
        key: {"values": [value + better for value in values], "unit": unit, "digits": digits}
        for key, (values, unit, digits) in RECORDS[chapter].items()
    }
    data = [{"name": "digits", "source": "scikit-learn", "train": 1078, "validation": 269, "test": 450}]
    return json.dumps({"chapter": chapter, "profile": profile, "data": data, "records": records})


def tiny_book(root: Path) -> Path:
    for folder in ("_static",):
        shutil.copytree(PROJECT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for page in ("index.md", "claims.md", "techniques.md", "references.md"):
        shutil.copy(PROJECT / page, root / page)
    (root / "reproduce.md").write_text("# Run it yourself\n")
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
    catalogue["not_yet_here"]["4"] = [row["id"] for row in catalogue["here"] if row["anchor"] not in parts]
    catalogue["here"] = [row for row in catalogue["here"] if row["anchor"] in parts]
    for row in catalogue["here"]:
        row["claims"] = ["C2.4-12"] if row["id"] == "deep-compression" else []
    (root / "survey" / "techniques.yml").write_text(yaml.safe_dump(catalogue))
    (root / "profiles").mkdir()
    (root / "profiles" / "quick.yml").write_text("{}\n")
    (root / "chapters").mkdir()
    for chapter, labels in PARTS.items():
        (root / "survey" / "claims" / f"{chapter}.yml").write_text(CLAIMS[chapter])
        parts = "".join(f"#\n# ({label})=\n# ## Part {label}\n#\n# Text.\n" for label in labels)
        page = HEADER + PAGE.format(title=chapter.capitalize(), name=chapter, parts=parts)
        (root / "chapters" / f"{chapter}.py").write_text(page)
        for profile, better in (("quick", 0.0), ("standard", 30.0)):
            folder = last_run.built_results if profile == "quick" else last_run.committed_results
            path = folder(root, profile) / f"{chapter}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(results(chapter, profile, better=better))
    for chapter in PARTS:
        stamp_run(root, chapter)
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


def build(root: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", BUILD, "build", str(root), "-W", "-n", "--keep-going", "--all", "-q"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "SURVEY_PROFILE": "quick", "NO_COLOR": "1"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BeautifulSoup]:
    root = tiny_book(tmp_path_factory.mktemp("book"))
    done = build(root)
    assert done.returncode == 0, done.stdout + done.stderr
    html = root / "_build" / "html"
    return {
        path.relative_to(html).as_posix(): BeautifulSoup(path.read_text("utf-8"), "html.parser")
        for path in (p for p in html.rglob("*.html") if "_static" not in p.parts)
    }


def words(tag) -> str:
    return " ".join(tag.get_text(" ").split())


def test_the_ledger_holds_every_claim_with_its_anchor_values_and_verdict(site):
    card = site["claims.html"].find(id="claim-C2.4-12")
    text = words(card)
    assert "✓ supported" in text
    assert "40×, Table 1" in text
    assert "19.5 ± 1.2×; the rule asks for at least 15×: ✓ holds" in text
    assert "points ( 3.20 ± 0.25 % against 3.10 ± 0.25 % )".replace("( ", "(").replace(" )", ")") in text
    assert "Standard profile" in text
    assert [site["claims.html"].find(id=f"claim-{id}") is not None for id in ("C2.3-09", "C2.3-38", "C2.4-13")] == [
        True
    ] * 3


def test_a_verdict_that_depends_on_the_processor_says_so(site):
    text = words(site["claims.html"].find(id="claim-C2.4-12"))
    assert "Processor The verdict depends on it: other processors give supported in part ." in text
    assert "depends on it" not in words(site["claims.html"].find(id="claim-C2.4-13"))


def test_an_erratum_and_a_reason_stand_beside_the_verdict(site):
    text = words(site["claims.html"].find(id="claim-C2.3-09"))
    assert "– not testable here" in text
    assert "Erratum The method is that of Han" in text
    assert "Because A sentence about an author." in text


def test_a_claim_of_another_profile_shows_that_profile_and_says_so(site):
    text = words(site["claims.html"].find(id="claim-C2.4-13"))
    assert "✓ supported (standard profile)" in text
    assert "The quick profile does not measure it." in text


def test_a_chapter_lists_its_own_claims_and_links_to_the_ledger(site):
    page = site["chapters/pruning.html"]
    cards = page.select("div.claim")
    assert len(cards) == 2
    assert cards[1].find("a")["href"] == "../claims.html#claim-C2.3-38"
    assert "✗ contradicted" in words(cards[1])
    assert "C2.4-12" not in words(page.article)


def test_the_claims_of_a_chapter_fold_into_one_computed_line(site):
    fold = site["chapters/pruning.html"].find("div", class_="claim").parent
    assert (fold.name, fold.has_attr("open")) == ("details", False)
    assert words(fold.summary) == "2 claims of the survey: 1 contradicted , 1 not testable here"
    assert fold.summary.select_one(".verdict-contradicted").text == "1 contradicted"
    assert [claim["id"] for claim in fold.select("div.claim")] == ["claim-C2.3-09", "claim-C2.3-38"]


def test_what_a_page_needs_folds_into_one_computed_line(site):
    fold = site["chapters/quantization.html"].select_one("div.facts").parent
    assert (fold.name, fold.has_attr("open")) == ("details", False)
    assert words(fold.summary) == "What this page needs: quick profile, digits, 12 s on 1 thread"


def test_the_cost_of_a_run_is_shown(site):
    text = words(site["chapters/quantization.html"].select_one("div.facts"))
    for part in ("Profile quick", "12 s", "410 MiB", "1,078 training", "3 for each measurement", "torch 2.13.0"):
        assert part in text


def test_the_catalogue_links_each_technique_and_lists_the_others(site):
    page = site["techniques.html"]
    row = page.find(id="deep-compression")
    assert {link["href"] for link in row.find_all("a")} >= {
        "chapters/quantization.html#sec-deep-compression",
        "claims.html#claim-C2.4-12",
    }
    assert "✓ supported" in words(row)
    assert "mnasnet" in words(page.find(id="not-yet-here"))


def test_the_first_page_counts_and_shows_the_first_result(site):
    text = words(site["index.html"].find(id="where-the-book-stands"))
    for part in ("4 of 86 techniques", "2 chapters", "1 ✗ contradicted", "19.5 ± 1.2×", "3.20 ± 0.25 %", "digits"):
        assert part in text


def test_every_page_names_its_profile_and_quick_ones_at_the_top(site):
    pages = [page for name, page in site.items() if name not in ("genindex.html", "search.html")]
    assert len(pages) == 7
    for page in pages:
        assert "Profile of this build: quick." in words(page)
        assert "standard profile" in words(page.select_one(".bd-header-announcement"))


def test_what_pages_ask_for_in_vain_fails_the_build(tmp_path):
    root = tiny_book(tmp_path)
    asks = ["{verdict}`C9-99`", "```{claims} hashing\n```", "```{cost} hashing\n```"]
    (root / "index.md").write_text("\n\n".join(["# Title", "(reading-a-verdict)=\n## Part", *asks]))
    (root / "chapters" / "pruning.py").write_text(HEADER + "# %% [markdown]\n# # Pruning\n")
    stamp_run(root, "pruning")
    done = build(root)
    assert done.returncode != 0
    for says in (
        "a claim must be one of those in survey/claims, not 'C9-99'",
        "a chapter with claims must be one of pruning, quantization, not 'hashing'",
        "the chapter 'hashing' has no finished run of the quick profile",
        "undefined label: 'sec-magnitude'",
    ):
        assert says in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("survey/claims/pruning.yml", "- id: C2.3-01\n", "claim C2.3-01: its section must be one of"),
        ("_build/results/quick/pruning.json", "{}", "pruning.json of the quick profile is damaged"),
    ],
)
def test_wrong_data_fail_the_build(tmp_path, file, text, says):
    root = tiny_book(tmp_path)
    (root / file).write_text(text)
    done = build(root)
    assert done.returncode != 0
    assert says in done.stdout + done.stderr
