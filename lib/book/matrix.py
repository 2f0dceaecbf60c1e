"""The jobs of the published book, one for each chapter: ``python .github/matrix.py PROFILE [--load]``.

Prints ``matrix=<JSON>``, a line for ``$GITHUB_OUTPUT``. Chapters that need each other share a job, in the order in
which they run. With ``--load`` it loads the data sets that the chapters name instead, which downloads what is missing.
"""

import hashlib
import json
import subprocess
import sys
from typing import Any


def main(profile: str, *options: str) -> None:
    """Print the matrix of a profile, or load its data."""
    command = [sys.executable, "-m", "lib", "chapters", "--json", "--profile", profile]
    rows = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    if options:
        load(rows)
    else:
        print(f"matrix={json.dumps({'include': jobs(rows)})}")


def jobs(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The jobs: ``{"name", "chapters", "fingerprint"}``, where ``chapters`` are names with spaces between them.

    A chapter stands after those that it needs; a job has the name of its first chapter, and its fingerprint is one
    hash of its chapters' fingerprints. ValueError where a chapter needs one that is missing, or itself.
    """
    by_name = {row["chapter"]: row for row in rows}
    order: list[str] = []
    group: dict[str, list[str]] = {}

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name not in by_name or name in above:
            raise ValueError(f"{' needs '.join((*above, name))}: accepted are other chapters, without a circle")
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
    found = []
    for members in {id(members): members for members in group.values()}.values():
        names = sorted(members, key=order.index)
        digest = hashlib.sha256("\n".join(by_name[name]["fingerprint"] for name in names).encode()).hexdigest()
        found.append({"name": names[0], "chapters": " ".join(names), "fingerprint": digest})
    return sorted(found, key=lambda job: job["name"])


def load(rows: list[dict[str, Any]]) -> None:
    """Load every data set that the chapters name."""
    from lib import datasets

    for name in sorted({name for row in rows for name in row["data"]}):
        print(f"loading {name}", flush=True)
        datasets.load(name)


if __name__ == "__main__":
    main(*sys.argv[1:])
