"""The table of techniques in README.md, written from ``survey/techniques.yml``: ``python -m lib.book.catalogue``."""

import sys
from pathlib import Path
from typing import Any

from pybtex.database import Person, parse_file

from lib.book import files, ledger

BEGIN, END = "<!-- techniques: written by make table -->", "<!-- end of techniques -->"
HEAD = "| method | paper | code | chapter |\n| --- | --- | --- | --- |"


def rows(root: Path) -> list[dict[str, Any]]:
    """Return the techniques of the book at ``root``, in the order of the survey's sections."""
    return sorted(ledger.techniques_as_written(root), key=lambda row: [int(part) for part in row["section"].split(".")])


def table(root: Path) -> str:
    """Return the table: a line for each technique, with its first paper, its file and its chapter."""
    papers = parse_file(root / "survey" / "references.bib").entries
    lines = [HEAD]
    for row in rows(root):
        paper = papers[row["source"][0]]
        name = Path(row["file"]).relative_to("lib").with_suffix("").as_posix()
        cells = (
            row["name"],
            f"{authors(paper.persons['author'])} ({paper.fields['year']})",
            f"[{name}]({row['file']})",
            f"[{row['chapter']}](chapters/{row['chapter']}.py)",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def authors(people: list[Person]) -> str:
    """Return the family names of ``people``: one, two, or the first and "et al."."""
    names = [" ".join(map(str, (*person.rich_prelast_names, *person.rich_last_names))) for person in people]
    return names[0] if len(names) == 1 else " and ".join(names) if len(names) == 2 else f"{names[0]} et al."


def written(text: str, content: str) -> str:
    """Replace what is between the two marks and return the new text.

    text: the content of README.md.
    content: the table.
    Raises ValueError if a mark is missing or occurs twice.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"README.md needs one line {BEGIN!r} and, after it, one line {END!r}")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{content}\n\n{END}{rest.split(END)[1]}"


def main(root: Path) -> None:
    """Write the table into README.md of the book at ``root``."""
    path = root / "README.md"
    files.write(path, written(path.read_text("utf-8"), table(root)))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
