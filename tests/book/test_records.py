"""The committed records: of which sources they are, and how another machine's values are held against them."""

import json
import shutil
from pathlib import Path

import pytest
from small_book import KEY, copy_book, write_record

from lib import evidence
from lib.__main__ import main
from lib.book import execution, files, fingerprints, last_run, ledger, records
from lib.book.run import run

pytestmark = [pytest.mark.book, pytest.mark.usefixtures("warm_runs")]


def leave(root: Path, values: list[float], key: str = KEY, **more: object) -> None:
    """What a run of the small book's chapter would leave."""
    entry = {"values": values, "unit": "points", "digits": 1} | more
    content = {"chapter": "passes", "profile": "quick", "data": [], "records": {key: entry}}
    files.write(last_run.built_results(root, "quick") / "passes.json", json.dumps(content))


# --- of which sources ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Path:
    """The small book with a run of its chapter."""
    root = copy_book(tmp_path_factory.mktemp("ran") / "book")
    run(root, "passes", "quick")
    return root


def test_building_leaves_the_records_alone_and_record_writes_them(ran, tmp_path):
    root = shutil.copytree(ran, tmp_path / "book")
    path = write_record(root, "quick", [7.0, 8.0])
    before = path.read_bytes()
    assert execution.execute(root, "quick", 1) == []
    assert path.read_bytes() == before
    (root / "results" / "quick" / "gone.json").write_text("{}")
    assert main(["--root", str(root), "record"]) == 0
    kept = ledger.load_result(path)
    assert kept["records"][KEY]["values"] == [3.5, 4.5, 5.5]
    assert kept["run"]["sources"] == fingerprints.sources(root, "passes", "quick")
    assert {"processor", "versions", "seconds", "peak_mib", "data_sha256"} <= set(kept["run"])
    assert not (root / "results" / "quick" / "gone.json").exists()  # of a chapter that is no more
    assert records.gate(root) == (2, [])


def test_a_chapter_without_a_run_is_not_recorded(small_book, add_chapter):
    add_chapter("bad", "raise ValueError('no')")
    assert main(["--root", str(small_book), "record", "--chapter", "bad"]) == 1
    assert not (small_book / "results" / "quick" / "bad.json").exists()


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda root: (root / "requirements.lock").write_text("numpy==1"), "requirements.lock changed since"),
        (lambda root: (root / "profiles" / "quick.yml").write_text("passes: {terms: 4}"), "parameters of passes"),
        (
            lambda root: (root / "chapters" / "passes.py").write_text(
                (root / "chapters" / "passes.py").read_text() + "\n# %%\n1\n"
            ),
            "chapters/passes.py changed since",
        ),
        (lambda root: (root / "results" / "quick" / "passes.json").unlink(), "quick/passes.json is missing"),
    ],
    ids=["lock", "parameters", "code", "missing"],
)
def test_a_record_of_other_sources_fails_the_gate(small_book, edit, says):
    assert records.gate(small_book) == (2, [])
    edit(small_book)
    count, wrong = records.gate(small_book)
    assert count == 2 and says in wrong[0] and "make record PROFILE=quick" in wrong[0]


def test_words_leave_a_record_as_it_is(small_book):
    source = small_book / "chapters" / "passes.py"
    source.write_text(source.read_text().replace("The answer is", "We get").replace("# no data set", "# none"))
    assert records.gate(small_book) == (2, [])


def test_a_record_without_sources_is_found(small_book):
    path = small_book / "results" / "quick" / "passes.json"
    content = json.loads(path.read_text())
    del content["run"]
    path.write_text(json.dumps(content))
    assert "is out of date: " in records.gate(small_book)[1][0]


# --- compared -----------------------------------------------------------------------------------------------------


def one(*values: float, unit: str = "%", **more: object) -> dict:
    return {"values": list(values), "unit": unit, "digits": 2} | more


@pytest.mark.parametrize(
    ("key", "old", "new", "kind", "differs"),
    [
        ("a.b.bytes", one(100, unit="bytes", exact=True), one(100, unit="bytes", exact=True), "exact", False),
        ("a.b.bytes", one(100, unit="bytes", exact=True), one(101, unit="bytes", exact=True), "exact", True),
        ("a.b.share_pct", one(1 / 3, exact=True), one(1 / 3 + 1e-13, exact=True), "exact", False),
        ("a.b.bytes", one(100, unit="bytes"), one(100, unit="bytes", exact=True), "exact", False),
        ("a.b.bytes", None, one(100), "exact", True),
        ("a.b.bytes", one(100), None, "exact", True),
        ("a.b.error_pct", one(1.0, 1.1, 1.2), one(1.1, 1.2, 1.3), "noise", False),
        ("a.b.error_pct", one(1.0, 1.1, 1.2), one(2.0, 2.1, 2.2), "noise", True),
        ("a.b.error_pct", one(1.0, 1.1, 1.2), one(1.3), "noise", False),
        # 2 % of 10,000 images: one standard deviation is 0.14, of a difference 0.2 points, and three of them are 0.6
        ("a.b.error_pct", one(2.0), one(2.5), "noise", False),
        ("a.b.error_pct", one(2.0), one(2.7), "noise", True),
        ("a.b.error_pct", one(0.0), one(0.03), "noise", False),
        ("a.b.error_pct", one(0.0), one(0.3), "noise", True),
        ("a.b.file_ratio", one(40, unit="x"), one(41, unit="x"), "unknown", True),
        ("a.b.file_ratio", one(40, unit="x"), one(40, unit="x"), "noise", False),
        ("a.b.latency_ms", one(1.0, unit="ms"), one(1.2, unit="ms", timing=True), "time", False),
        ("a.b.latency_ms", one(1.0, unit="ms"), one(9.0, unit="ms", timing=True), "time", True),
    ],
)
def test_a_difference_is_judged_by_its_kind(key, old, new, kind, differs):
    found, says = records.difference(key, old, new, [10_000])
    assert (found, bool(says)) == (kind, differs)


def test_compare_names_flips_first_then_values_beyond_their_noise(small_book, capsys):
    def compared(values: list[float], **more: object) -> tuple[int, str]:
        leave(small_book, values, **more)
        return main(["--root", str(small_book), "compare"]), capsys.readouterr().out

    write_record(small_book, "quick", [4.0, 4.5, 5.0])
    status, said = compared([4.1, 4.6, 5.1])
    assert status == 0
    assert "1 results of 1 chapters compared with the committed ones: 0 verdicts flip, 0 exact values and 0" in said
    status, said = compared([44.0, 45.0, 46.0])
    assert status == 1 and "Values beyond their noise: 1\n  passes.sum.value: was 4.5 ± 1.2 points" in said
    status, said = compared([1.0, 1.1, 1.2])
    first = said.splitlines()
    assert status == 1 and first[0] == "Verdicts that flip: 1"
    assert "C2.3-01: held supported, the committed records give" in first[1] and "this build gives" in first[1]
    status, said = compared([4.0, 4.5, 5.1], exact=True)
    assert status == 1 and "Exact values that differ: 1" in said
    write_record(small_book, "quick", [4.0, 4.1, 4.2])
    status, said = compared([2.5, 4.1, 5.6])
    assert status == 0 and said.splitlines()[0] == "Verdicts that one of two runs leaves open: 1"


def test_compare_needs_both(small_book, capsys):
    assert main(["--root", str(small_book), "compare"]) == 1
    assert "nothing to compare: the quick profile needs a build" in capsys.readouterr().err


def test_an_exact_record_says_so():
    class Notebook(dict):
        pass

    about = {"key": KEY, "values": [1.0], "unit": "", "digits": 0}
    outputs = [{"metadata": {"survey": {"record": about | {"exact": True}}}}]
    notebook = Notebook(cells=[{"outputs": outputs}], metadata={"survey": {"chapter": "passes"}})
    assert evidence.harvest(notebook)["records"][KEY]["exact"] is True
    outputs[0]["metadata"]["survey"]["record"]["exact"] = False
    assert "exact" not in evidence.harvest(notebook)["records"][KEY]
