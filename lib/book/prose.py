"""The gate on prose: no measured number is typed in the Markdown of pages and chapters."""

import re
from collections.abc import Iterator
from pathlib import Path

from lib.book import chapters


def typed_numbers(root: Path) -> tuple[int, list[str]]:
    """No measured number is typed: in prose a decimal, a percentage, a factor, a size or a time comes from a record.

    A line with a citation may state what the cited source says. Code, formulas, headings and addresses do not count.
    """
    count, wrong = 0, []
    for name, first, text in texts(root):
        for number, line in enumerate(_stripped(text).splitlines(), first):
            count += bool(line.strip())
            if (typed := TYPED.search(line)) and "{cite" not in text.splitlines()[number - first]:
                wrong.append(
                    f"{name}:{number} types {typed[0].strip()!r}: show a recorded value, or cite whose number it is"
                )
    return count, wrong


TYPED = re.compile(
    r"(?<![\w.,-])(?<!section )(?<!sections )(?<!python )(?:\d+\.\d+(?![\w.]*\.\d)|\d[\d,]*(?:\.\d+)?(?:"
    r"\s?[%×]|x\b|[\s-](?:per ?cent|times|fold|bytes?|seconds?|minutes?)\b|\s?(?:[KMG]i?B|ms|s|µs)\b))",
    re.IGNORECASE,
)


NO_PROSE = [  # what is cut from a source before it is read as prose; line breaks stay
    r"(?s)\A---\n.*?\n---\n",
    r"(?ms)^ *(`{3,}|~{3,})(?!`)(?!\{(?!math|code|glue|literalinclude)).*?^ *\1 *$",
    r"(?m)^ *(?:`{3,}|:{3,}).*$",
    r"(?s)\$\$.*?\$\$",
    r"(?s)\\begin\{(\w+\*?)\}.*?\\end\{\1\}",
    r"(?s)<!--.*?-->",
    r"(?m)^#+ .*$",
    r"(?m)^\(.*\)=$",
    r"(?m)^:[\w-]+:.*$",
    r"\{[\w:.-]+\}`[^`]*`",
    r"(`+)(?!`).*?(?<!`)\1(?!`)",
    r"(?<![\\$\w])\$(?!\s)[^$\n]+\$",
    r"(?<=\])\([^)\n]*\)",
    r"<[^>\n]+>",
    r"https?://\S+",
]


def typed(text: str) -> str | None:
    """Return the first number in a text that looks like a typed measurement, or None.

    text: Markdown.

    >>> typed("It lost 4 % of its weights."), typed("It lost {mean}`pruning.net.removed_pct` of its weights.")
    ('4 %', None)
    """
    found = TYPED.search(_stripped(text))
    return found[0].strip() if found else None


def _stripped(text: str) -> str:
    for pattern in NO_PROSE:
        text = re.sub(pattern, lambda cut: "\n" * cut[0].count("\n"), text)
    return text


def texts(root: Path) -> Iterator[tuple[str, int, str]]:
    """Yield every piece of Markdown of the book: its file, its first line there, its text.

    root: the book's folder.
    """
    for path in sorted(root.glob("*.md")):
        yield path.name, 1, path.read_text("utf-8")
    for chapter in chapters.names(root):
        lines = (root / "chapters" / f"{chapter}.py").read_text("utf-8").splitlines()
        position = 0
        for cell in chapters.notebook(root, chapter).cells:
            if cell.cell_type == "markdown":
                while not lines[position].startswith("# %% [markdown]"):
                    position += 1
                position += 1
                yield f"chapters/{chapter}.py", position + 1, cell.source
