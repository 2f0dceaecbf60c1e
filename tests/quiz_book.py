"""A small book with a quiz, a prediction and the sliders, for tests of the pages."""

import json
from pathlib import Path

import yaml
from survey_book import build, tiny_book

from lib.book import playground

ERROR = "quantization.lenet300.error_pct"
PAGE = """# Questions

```{quiz} 2.3
```

```{predict} error
```

```{playground}
```
"""
QUESTIONS = [
    {
        "ask": f"How many weights can go, by question {number}?",
        "choices": ["A *tenth*", "Half of them", "More than nine in ten"],
        "right": number,
        "because": "It lost {mean}`pruning.lenet300.removed_pct 0` of them: {verdict}`C2.3-38`.",
        "rule": "C2.3-38 contradicted; pruning.lenet300.removed_pct > 90",
    }
    for number in (1, 2, 3)
]
PREDICTION = {
    "ask": "What is the error?",
    "key": ERROR,
    "choices": [{"says": "Little", "below": 1}, {"says": "Some", "below": 5}, {"says": "Much"}],
    "because": "So it is.",
}


def questions() -> dict:
    """A right file of questions, as YAML gives it."""
    return json.loads(json.dumps({"quizzes": {"2.3": QUESTIONS}, "predictions": {"error": PREDICTION}}))


def sliders(code: str = "0") -> dict:
    """A record of the sliders in which error and bytes follow from the setting."""
    row = {"error_pct": [], "bytes": [], "histogram": [0] * 20 + [100] + [0] * 20}
    settings = [
        {"density": density, "bits": bits}
        | row
        | {"error_pct": [100 / density + 8 / bits] * 3, "bytes": [100 * density * bits] * 3}
        for density in playground.DENSITIES
        for bits in playground.BITS
    ]
    return {"code": code, "plan": {}, "dense_bytes": 320_000, "settings": settings}


def quiz_book(root: Path, content: dict) -> str:
    """Write and build the book with these questions; return what the build says, "" where it is content.

    root: the book's folder.
    content: of the file of questions.
    """
    tiny_book(root)
    config = yaml.safe_load((root / "_config.yml").read_text("utf-8"))
    needed = ("icons", "means", "offline", "playground", "quiz", "survey", "theme")
    config["sphinx"]["extra_extensions"] = [f"lib.book.sphinx.{name}" for name in needed]
    config["sphinx"]["config"].pop("nb_custom_formats")
    (root / "_config.yml").write_text(yaml.safe_dump(config))
    toc = {"format": "jb-book", "root": "index", "chapters": [{"file": name} for name in ("claims", "references")]}
    (root / "_toc.yml").write_text(yaml.safe_dump(toc))
    (root / "index.md").write_text(PAGE)
    (root / "claims.md").write_text("# Claims\n\n(claim-c2.3-38)=\n## C2.3-38\n")
    (root / "survey" / "quizzes.yml").write_text(yaml.safe_dump(content))
    (root / playground.RECORD).write_text(json.dumps(sliders()))
    done = build(root)
    return done.stdout + done.stderr if done.returncode else ""
