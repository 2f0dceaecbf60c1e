"""The jobs that run the published book, one for each chapter: ``python -m lib.book.matrix PROFILE [--load]``.

Prints ``matrix=<JSON>``, a line for ``$GITHUB_OUTPUT``. A chapter shares a job with the chapters it needs, in the order
in which they run. With ``--load`` it instead loads the data sets that the chapters name, and downloads missing ones.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from lib import datasets
from lib.book import fingerprints

ROOT = Path(__file__).parents[2]


def main(arguments: list[str] | None = None) -> None:
    """Print the matrix of a profile, or load its data.

    arguments: the words of the command; by default those that Python was started with.
    """
    parser = argparse.ArgumentParser(prog="python -m lib.book.matrix", description="Jobs that run the chapters.")
    parser.add_argument("profile", help="quick, standard or full")
    parser.add_argument("--load", action="store_true", help="instead, load the data sets that the chapters name")
    options = parser.parse_args(arguments)
    rows = fingerprints.summaries(ROOT, options.profile)
    if options.load:
        load(rows)
    else:
        print(f"matrix={json.dumps({'include': jobs(rows)})}")


def jobs(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return the jobs: ``{"name", "chapters", "fingerprint"}``, where ``chapters`` holds names separated by spaces.

    A chapter comes after those that it needs; a job has the name of its first chapter, and its fingerprint is one hash
    of its chapters' fingerprints.

    rows: the summaries of all chapters.
    Raises ValueError if a chapter needs one that is missing, or itself, directly or not.
    """
    by_name = {row["chapter"]: row for row in rows}
    order: list[str] = []
    group: dict[str, list[str]] = {}

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name not in by_name or name in above:
            raise ValueError(
                f"{' needs '.join((*above, name))}: a chapter may need only chapters that exist, and not itself"
            )
        if name in group:
            return
        group[name] = [name]
        for other in by_name[name]["needs"]:
            visit(other, (*above, name))
            if group[other] is not group[name]:
                group[name] += group[other]
                for member in group[other]:
                    group[member] = group[name]
        order.append(name)

    for name in sorted(by_name):
        visit(name, ())
    rows_of_jobs = []
    for members in {id(members): members for members in group.values()}.values():
        names = sorted(members, key=order.index)
        digest = hashlib.sha256("\n".join(by_name[name]["fingerprint"] for name in names).encode()).hexdigest()
        rows_of_jobs.append({"name": names[0], "chapters": " ".join(names), "fingerprint": digest})
    return sorted(rows_of_jobs, key=lambda job: job["name"])


def load(rows: list[dict[str, Any]]) -> None:
    """Load every data set that the chapters name.

    rows: the summaries of all chapters.
    """
    for name in sorted({name for row in rows for name in row["data"]}):
        print(f"loading {name}", flush=True)
        datasets.load(name)


if __name__ == "__main__":
    main()
