"""``{cost} pruning``: what the run of a chapter used, in one folded line."""

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from lib.book import last_run, ledger
from lib.book.sphinx.ledger_markdown import fact
from lib.book.sphinx.page import PROFILE, Page
from lib.book.sphinx.parts import fold


class Cost(Page):
    """What the run of one chapter used, in one folded line, from its stamped notebook and its results."""

    required_arguments = 1

    def render(self) -> list[nodes.Node]:
        chapter = self.arguments[0]
        done = last_run.executed(self.root, chapter, PROFILE)
        path = last_run.built_results(self.root, PROFILE) / f"{chapter}.json"
        if done is None or not path.exists():
            raise ValueError(f"the chapter {chapter!r} has no finished run of the {PROFILE} profile: run it first")
        result, stamp = ledger.load_result(path), done.metadata["survey"]
        box = self.parsed(facts(PROFILE, result, stamp), nodes.container(classes=["facts"]))
        return [fold([nodes.Text(in_short(PROFILE, result, stamp))], [box])]


def facts(profile: str, result: dict[str, Any], stamp: dict[str, Any]) -> str:
    """Return what the run of a chapter used: its profile, data, time, memory, seeds and versions.

    profile: the profile of the run.
    result: the chapter's results, as :func:`lib.book.ledger.load_result` reads them.
    stamp: the ``survey`` metadata of the executed notebook.
    """
    counts = sorted({len(record["values"]) for record in result["records"].values()})
    seeds = " to ".join(str(n) for n in dict.fromkeys((counts[0], counts[-1]))) if counts else "0"
    data = [
        f"{entry['name']}: {entry['train']:,} training, {entry['validation']:,} validation,"
        f" {entry['test']:,} test samples ({entry['source']})"
        for entry in result["data"]
    ]
    versions = ", ".join(f"{name} {version}" for name, version in stamp["versions"].items())
    rows = [
        ("Profile", [profile]),
        ("Data", data or ["none"]),
        ("Time", [_duration(stamp["seconds"])]),
        ("Peak memory", [f"{stamp['peak_mib']:,.0f} MiB"]),
        ("Seeds", [f"{seeds} for each measurement"]),
        ("Record", [f"`results/{profile}/{result['chapter']}.json`, {len(result['records'])} measurements"]),
        ("Processor", [stamp["processor"]]),
        ("Versions", [versions]),
    ]
    return "\n\n".join(fact(term, lines) for term, lines in rows) + "\n"


def in_short(profile: str, result: dict[str, Any], stamp: dict[str, Any]) -> str:
    """Return on one line what the run of a chapter used: its profile, its data, and its time on one thread.

    profile: the profile of the run.
    result: the chapter's results, as :func:`lib.book.ledger.load_result` reads them.
    stamp: the ``survey`` metadata of the executed notebook.
    """
    data = " and ".join(dict.fromkeys(entry["name"] for entry in result["data"])) or "no data"
    return f"What this page needs: {profile} profile, {data}, {_duration(stamp['seconds'])} on 1 thread"


def _duration(seconds: float) -> str:
    text = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive; Sphinx calls it. Returns whether pages may be built in parallel."""
    app.add_directive("cost", Cost)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
