"""Every gate holds on a good page, fails on purpose on a bad one, and fails where it finds nothing to look at."""

import os
import sys
from pathlib import Path

import pytest
from small_ledger import BYTES, OTHER, TWO, K, claim, record, write_ledger

from lib.book import build, choices, findings, form, gates, judging, ledger, pages, quizzes, reading, records
from lib.book.claims import CONTRADICTED, IN_PART, SUPPORTED, UNDECIDED

GOOD = """<html><head><link rel="stylesheet" href="_static/book.css"><link rel="canonical" href="https://example.org/">
<script src="_static/book.js"></script></head><body><h1 id="top">One</h1><a href="#top">top</a>
<a href="two.html#there">two</a> <a href="https://example.org">elsewhere</a>
<img id="fig-a" src="a.svg" alt="The file shrinks fortyfold"> <code>{glue:text}`key`</code></body></html>"""
SECOND = '<html><body><h1 id="there">Two</h1><a href="index.html">one</a></body></html>'


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A book of two built pages with nothing wrong, and of one source page."""
    pages = tmp_path / "_build" / "html"
    (pages / "_static").mkdir(parents=True)
    (pages / "index.html").write_text(GOOD)
    (pages / "two.html").write_text(SECOND)
    (pages / "search.html").write_text("<html></html>")
    (pages / "_static" / "book.css").write_text("body { background: url(paper.png) }")
    (tmp_path / "_toc.yml").write_text("root: index\nchapters:\n  - file: two\n")
    (tmp_path / "index.md").write_text("# One\n\nA sentence.\n")
    (tmp_path / "chapters").mkdir()
    (tmp_path / "chapters" / "one.py").write_text('figures.show(figure, name="fig-a")\n')
    return tmp_path


@pytest.mark.parametrize("name", gates.GATES)
def test_a_good_site_passes_every_gate(site, name):
    count, wrong = gates.GATES[name](site)
    assert wrong == []
    assert count > 0


FAULTS = {  # gate -> (what is on the good page, what it becomes, what the gate then says)
    "outside requests": [
        ("_static/book.js", "https://cdn.example.org/book.js", "loads https://cdn.example.org/book.js"),
        ("_static/book.css", "//cdn.example.org/book.css", "loads //cdn.example.org/book.css"),
        ('src="a.svg"', 'src="http://example.org/a.svg"', "loads http://example.org/a.svg"),
    ],
    "alternative texts": [
        ('alt="The file shrinks fortyfold"', "", "the alternative text ''"),
        ("The file shrinks fortyfold", " ", "the alternative text ''"),
        ("The file shrinks fortyfold", "../_images/0f3a.svg", "which says nothing"),
        ("The file shrinks fortyfold", "figure.png", "which says nothing"),
    ],
    "unresolved roles": [
        ("<h1", "<p>{glue:text}`pruning.error`</p><h1", "shows {glue:text} as text"),
        ("<h1", "<p>{cite:p}`lecun`</p><h1", "shows {cite:p} as text"),
        ("<h1", "<p>see {numref}`fig-a`</p><h1", "shows {numref} as text"),
    ],
    "traces of the machine": [
        ("<h1", "<pre>&lt;Generator object at 0x7f14c042&gt;</pre><h1", "shows 'at 0x7f14c042'"),
        ("<h1", "<p>/home/someone/book</p><h1", "shows '/home/someone'"),
        ("<h1", f"<p>{sys.prefix}/lib</p><h1", f"shows {sys.prefix!r}"),
    ],
    "internal links": [
        ("two.html#there", "three.html", "links to three.html, which does not exist"),
        ("two.html#there", "two.html#here", "two.html has no place of that name"),
        ('"#top"', '"#bottom"', "index.html has no place of that name"),
        ("two.html#there", "../../../etc/passwd", "which does not exist"),
    ],
}


@pytest.mark.parametrize(
    ("name", "old", "new", "says"), [(name, *fault) for name, faults in FAULTS.items() for fault in faults]
)
def test_a_fault_on_a_page_is_found(site, name, old, new, says):
    page = pages.site(site) / "index.html"
    assert old in page.read_text()
    page.write_text(page.read_text().replace(old, new))
    _, wrong = gates.GATES[name](site)
    assert len(wrong) == 1
    assert wrong[0].startswith("index.html")
    assert says in wrong[0]


def test_a_figure_that_is_on_no_page_is_found(site):
    page = pages.site(site) / "index.html"
    page.write_text(page.read_text().replace('id="fig-a"', ""))
    assert gates.GATES["figures"](site) == (1, ["one.py names the figure 'fig-a', which no page shows"])


def test_a_style_sheet_that_loads_from_the_network_is_found(site):
    for line in ("@import 'https://example.org/a.css';", "b { background: url(//example.org/a.png) }"):
        (pages.site(site) / "_static" / "book.css").write_text(line)
        _, wrong = gates.outside_requests(site)
        assert wrong
        assert "example.org/a." in wrong[0]


def test_pages_are_those_of_the_table_of_contents(site):
    (pages.site(site) / "two.html").rename(pages.site(site) / "three.html")
    _, wrong = gates.page_count(site)
    assert wrong == [
        "two.html is in _toc.yml but was not built",
        "three.html was built but is not in _toc.yml",
    ]


def test_a_gate_that_looks_at_nothing_fails(tmp_path, monkeypatch, capsys):
    (tmp_path / "_toc.yml").write_text("root: index\n")
    monkeypatch.setattr(gates, "verdicts", lambda root, profile: ({profile: 1}, []))
    problems = build.hold_gates(tmp_path, "quick")
    assert [p for p in problems if p.endswith("nothing to check")] == [
        f"{name}: nothing to check"
        for name in (*gates.GATES, *form.GATES, *reading.GATES, *findings.GATES, *choices.GATES, "records")
        if name != "page count"
    ]
    assert "page count: index.html is in _toc.yml but was not built" in problems
    assert build.conclusion(problems) == 1
    assert build.conclusion([]) == 0
    assert f"{len(problems)} problems" in capsys.readouterr().err


def test_the_verdicts_are_one_of_the_gates(site, monkeypatch):
    monkeypatch.setattr(gates, "verdicts", lambda root, profile: ({profile: 3}, ["claim C2.3-01 is held otherwise"]))
    monkeypatch.setattr(records, "gate", lambda root: (2, ["results/quick/one.json is out of date"]))
    monkeypatch.setattr(form, "GATES", {})
    monkeypatch.setattr(reading, "GATES", {})
    monkeypatch.setattr(findings, "GATES", {})
    monkeypatch.setattr(choices, "GATES", {})
    monkeypatch.setattr(quizzes, "GATES", {})
    assert build.hold_gates(site, "quick") == [
        "records: results/quick/one.json is out of date",
        "verdicts: claim C2.3-01 is held otherwise",
    ]


def test_what_a_page_says_is_read_again_when_it_changed(site):
    page = pages.site(site) / "index.html"
    assert gates.alternative_texts(site)[1] == []
    before = page.stat()
    page.write_text(GOOD.replace("The file shrinks fortyfold", ""))
    os.utime(page, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert len(gates.alternative_texts(site)[1]) == 1


# --- verdicts ----------------------------------------------------------------------------------------------------

TIMED = [{"key": K, "at_most": 2}, {"key": "pruning.net.latency_ratio", "at_least": 1}]


@pytest.mark.parametrize(
    ("error", "size", "verdict"),
    [
        ([1, 1.1, 1.2], 90, SUPPORTED),
        ([3, 3.1, 3.2], 90, IN_PART),
        ([3, 3.1, 3.2], 110, CONTRADICTED),
        ([1.9, 2, 2.1], 90, UNDECIDED),
    ],
)
def test_the_measurements_flip_the_verdict_and_the_gate(tmp_path, error, size, verdict):
    records = {K: record(*error), BYTES: record(size, unit="bytes", exact=True)}
    fine = {K: record(1.0, 1.1, 1.2), BYTES: record(90.0, unit="bytes", exact=True)}
    for held in (SUPPORTED, IN_PART, CONTRADICTED, UNDECIDED):
        root = write_ledger(
            tmp_path,
            [claim(decided_by={"quick": TWO, "standard": TWO}, verdict=held)],
            {"quick": records, "standard": fine if held == SUPPORTED else records},
        )
        (one,) = ledger.load_claims(root)
        assert judging.judge(one, "quick", ledger.load_results("quick", root)).verdict == verdict
        judged, failures = gates.verdicts(root, "quick")
        assert judged == {"quick build": 1, "standard records": 1}
        agree = held == verdict or (held == SUPPORTED and verdict == UNDECIDED)  # only quick is undecided
        assert (failures == []) == agree
        if not agree and verdict != UNDECIDED:
            assert f"claim C2.3-01 is held '{held}', but the quick profile gives '{verdict}'" in failures[0]
            assert "pruning.net.error_pct is" in failures[0]


def test_the_committed_standard_results_are_held_against_the_ledger_too(tmp_path):
    rules = {"quick": TWO[:1], "standard": TWO[:1]}
    root = write_ledger(
        tmp_path, [claim(decided_by=rules)], {"quick": {K: record(1, 1, 1)}, "standard": {K: record(9, 9, 9)}}
    )
    judged, (failure,) = gates.verdicts(root, "quick")
    assert judged == {"quick build": 1, "standard records": 1}
    assert "the standard profile gives 'contradicted'" in failure


def test_a_verdict_may_depend_on_the_processor_where_a_time_decides(tmp_path):
    def failures(ratio: float, **more: object) -> list[str]:
        records = {K: record(1, 1, 1), "pruning.net.latency_ratio": record(ratio, unit="x", timing=True)}
        root = write_ledger(tmp_path, [claim(decided_by={"standard": TIMED}, **more)], {"standard": records})
        return gates.verdicts(root, "standard")[1]

    assert failures(2.0) == [] and len(failures(0.5)) == 2
    assert failures(2.0, elsewhere=[IN_PART]) == failures(0.5, elsewhere=[IN_PART]) == []
    assert len(failures(0.5, elsewhere=[UNDECIDED])) == 2


def test_kinds_of_measurements_that_do_not_fit_are_named(tmp_path):
    records = {K: record(1, exact=True)}
    root = write_ledger(tmp_path, [claim(decided_by={"standard": TWO[:1]})], {"standard": records})
    failures = gates.verdicts(root, "standard")[1]
    assert len(failures) == 2 and all("only exact quantities decide it" in failure for failure in failures)


@pytest.mark.parametrize(
    ("claims", "results", "says"),
    [
        (
            [claim(verdict="not testable here", because="Opinion.", decided_by=None)],
            {},
            "there are no results in the quick build: run `make book PROFILE=quick`",
        ),
        (
            [claim(verdict="not testable here", because="Opinion.", decided_by=None)],
            {"quick": {K: record(1.0)}, "standard": {K: record(1.0)}},
            "no verdict was judged in quick build or standard records",
        ),
        (
            [claim(decided_by={"full": TWO[:1]})],
            {"quick": {K: record(1.0)}},
            "there are no results in the standard records: run `make record PROFILE=standard`",
        ),
        ([claim()], {"quick": {OTHER: record(1.0)}, "standard": {K: record(1.0)}}, "which no chapter records there"),
        ([], {"quick": {K: record(1.0)}}, "there is no claim"),
        ([claim(), claim()], {"quick": {K: record(1.0)}}, "is in the ledger twice"),
    ],
)
def test_the_gate_of_verdicts_fails(tmp_path, claims, results, says):
    _, failures = gates.verdicts(write_ledger(tmp_path, claims, results), "quick")
    assert any(says in failure for failure in failures)


def test_the_gate_of_verdicts_refuses_an_unknown_profile(tmp_path):
    root = write_ledger(tmp_path, [claim()], {"standard": {K: record(1.0)}})
    _, failures = gates.verdicts(root, "fast")
    assert "profile must be one of quick, standard, full, fashion, not 'fast'" in failures
