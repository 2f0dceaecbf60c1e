"""A number that is typed into prose is found, and what is no measured number is let be."""

from pathlib import Path

import pytest

from lib.book import prose


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The sources of a book: one page and one chapter."""
    (tmp_path / "chapters").mkdir()
    (tmp_path / "index.md").write_text("# One\n")
    return tmp_path


def cases(text: str) -> list[str]:
    """The cases of a table, one on a line; in them \\n is a new line."""
    return [line.replace(r"\n", "\n") for line in text.strip().splitlines()]


TYPED = r"""
The error falls to 1.62 points.
It keeps 8 % of the weights.
It keeps 8% of the weights.
It keeps eight or 12 percent of them.
The file is 40 times smaller.
The file is 40x smaller.
The file is 40× smaller.
A 40-fold gain.
It takes 26,610 bytes.
It takes 12 KB.
It takes 1.5 MiB on disk.
One pass takes 3 ms.
Training takes 90 s.
- a list with 97.5 in it
| a table | 97.5 |
```{note}\nThe error is 1.62 points.\n```
:::{admonition} What to see\nThe file is 40 times smaller.\n:::
As {cite:p}`han2016` says.\nThe file is 40 times smaller.
"""


@pytest.mark.parametrize("line", cases(TYPED))
def test_a_typed_number_is_found(site, line):
    (site / "index.md").write_text(f"# One\n\n{line}\n")
    _, wrong = prose.typed_numbers(site)
    assert len(wrong) == 1
    assert wrong[0].startswith(f"index.md:{3 + line.count(chr(10)) - ('```' in line or ':::' in line)} types ")


NOT_MEASURED = r"""
The file is 40 times smaller, they report {cite:p}`han2016`.
The error falls to {glue:text}`pruning.lenet.error_pct`.
Set `fraction = 0.5`, or ``0.7 %``.
## About 2.5 % of them
(sec-2.3)=
See [the page](https://example.org/1.5/8%20).
Section 2.3 and Python 3.11 have such names.
Images of 28 x 28 pixels, 28x28, 300 units, 32-bit numbers, 3 seeds, in 2016.
LeNet-300-100 and LeNet-5.
Version 1.0.4 of it.
<!-- 97.5 % -->
The threshold is $0.5$ and the size is $4 \times 10$.
$$ x = 0.5 \% $$ (eq-half)
$$\nx = 0.5\n$$
```python\nfraction = 0.5\n```
1. A step:\n\n   ```yaml\n   density: 0.5\n   ```
````{code-block} python\nfraction = 0.5\n````
```{image} a.svg\n:width: 50%\n```
"""


@pytest.mark.parametrize("line", cases(NOT_MEASURED))
def test_what_is_no_measured_number_is_let_be(site, line):
    (site / "index.md").write_text(f"# One\n\n{line}\n")
    assert prose.typed_numbers(site)[1] == []


def test_a_typed_number_in_a_chapter_is_found_on_its_line(site):
    (site / "chapters" / "one.py").write_text(
        "# %% [markdown]\n# # One\n\n# %%\nx = 0.5  # 97.5 %\n\n# %% [markdown]\n# Fine.\n# It falls to 1.62.\n"
    )
    assert [problem.split(":")[:2] for problem in prose.typed_numbers(site)[1]] == [
        ["chapters/one.py", "9 types '1.62'"]
    ]
