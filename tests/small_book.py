"""A small book for tests: one chapter, one page, one claim."""

import json
import shutil
import signal
from pathlib import Path

PROJECT = Path(__file__).parents[1]
KEY = "passes.sum.value"  # what the chapter of the small book records


def copy_book(root: Path) -> Path:
    """The root of a fresh copy, with records of its present sources."""
    shutil.copytree(PROJECT / "tests" / "fixtures" / "book", root)
    shutil.copytree(PROJECT / "_static", root / "_static")
    for name in ("_config.yml", "Snakefile"):
        shutil.copy(PROJECT / name, root)
    (root / "results" / "quick").mkdir()
    for profile, values in (("quick", [3.5, 4.5, 5.5]), ("standard", [10.5, 11.5, 12.5])):
        write_record(root, profile, values)
    return root


def write_record(root: Path, profile: str, values: list[float], chapter: str = "passes") -> Path:
    """The committed record of a small book's chapter, of its present sources."""
    from lib.book import fingerprints  # here: tests/conftest.py first says how many threads libraries may start

    run = {"sources": fingerprints.sources(root, chapter, profile), "seconds": 1.0}
    records = {f"{chapter}.sum.value": {"values": values, "unit": "points", "digits": 1}}
    path = root / "results" / profile / f"{chapter}.json"
    content = {"chapter": chapter, "profile": profile, "data": [], "records": records, "run": run}
    path.write_text(json.dumps(content))
    return path


def results(root: Path, chapter: str = "passes", profile: str = "quick") -> Path:
    """Where a run of a chapter leaves what it measured."""
    return root / "_build" / "results" / profile / f"{chapter}.json"


def hears_ctrl_c() -> None:
    """A shell's background jobs, of which these tests may be one, are deaf to Ctrl-C: hear it again."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
