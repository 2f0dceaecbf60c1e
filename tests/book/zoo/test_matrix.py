"""The matrix of technique x network: its record is of the present code, and on the small networks it holds here."""

import json
from concurrent.futures import Future
from pathlib import Path

import pytest
import yaml

from lib.book import ledger
from lib.book.zoo import matrix, networks, trials

ROOT = Path(__file__).parents[3]
TRIALS = matrix.trials(ROOT)
SMALL = ("U-Net", "CSP block", "mixer", "LSTM", "Conv3d")


def test_every_technique_is_tried_or_says_why_not():
    rows = ledger.load_techniques(ROOT)
    left_out = {row["id"]: row["zoo"]["none"] for row in rows if "none" in row.get("zoo", {})}
    assert {row["id"] for row in rows} == TRIALS.keys() | left_out.keys() and all(left_out.values())
    sections = {row["id"]: row["section"] for row in rows}  # section 3 builds networks, section 2 compresses given ones
    compress = [id for id in left_out if sections[id].startswith("2.")]
    assert len(compress) < 12  # they work on data, or on parts that the user names
    assert {trial["kind"] for trial in TRIALS.values()} == trials.KINDS.keys()


def test_the_record_is_of_this_code_without_a_fault():
    count, wrong = matrix.gate(ROOT)
    assert count == len(TRIALS) * len(networks.ZOO) and wrong == []


@pytest.mark.parametrize("id", TRIALS)
def test_on_small_networks_the_record_holds_here(id):
    record = matrix.load(ROOT)[id]["networks"]
    for network in SMALL:
        outcome = trials.tried(TRIALS[id]["kind"], TRIALS[id]["call"], network)
        assert outcome.state == record[network]["state"] != "fault", f"{network}: {outcome.says}"


@pytest.fixture
def book(tmp_path):
    """A book of one technique, with a record of it."""
    for name in ("lib/__init__.py", "lib/weights.py", "lib/quantization/__init__.py", "lib/book/zoo/trials.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "lib" / "quantization" / "signs_of.py").write_text("from lib import weights\nx = 1\n")
    (tmp_path / "lib" / "quantization" / "other.py").write_text("x = 1\n")
    (tmp_path / "requirements.lock").write_text("torch")
    (tmp_path / "survey").mkdir()
    row = {"id": "signs", "section": "2.4", "contract": {"kind": "weights", "call": "signs_of.quantize(model)"}}
    (tmp_path / "survey" / "techniques.yml").write_text(yaml.safe_dump([row]))
    cells = {name: {"state": "works", "seconds": 1, "says": ""} for name in "abcd"}
    cells |= {"e": {"state": "refused", "seconds": 0, "says": "no"}}
    write(tmp_path, {"signs": {"code": matrix.digests(tmp_path)["signs"], "networks": cells}})
    return tmp_path


def write(root: Path, record: dict) -> None:
    (root / matrix.RECORD).parent.mkdir(exist_ok=True)
    (root / matrix.RECORD).write_text(json.dumps(record))


def test_a_record_that_is_right_passes(book):
    assert matrix.gate(book) == (5, [])


@pytest.mark.parametrize(
    ("name", "text", "stale"),
    [
        ("lib/quantization/signs_of.py", "from lib import weights\nx = 2\n", True),
        ("lib/quantization/signs_of.py", "from lib import weights\nx = 1  # one\n", False),
        ("lib/weights.py", "y = 1\n", False),
        ("lib/book/zoo/trials.py", "y = 1\n", True),
        ("lib/quantization/other.py", "x = 2\n", False),
        ("requirements.lock", "torch 3", True),
    ],
)
def test_a_record_is_stale_when_its_code_has_changed(book, name, text, stale):
    (book / name).write_text(text)
    wrong = matrix.gate(book)[1]
    assert bool(wrong) == stale and all("signs in results/networks.json is of other code: make zoo" in w for w in wrong)


def test_faults_gaps_and_strangers_in_a_record_are_named(book):
    record = matrix.load(book)
    record["signs"]["networks"]["e"] = {"state": "fault", "says": "IndexError: 3"}
    write(book, {**record, "old": record["signs"]})
    assert matrix.gate(book)[1] == [
        "results/networks.json has old, which the catalogue does not try: make zoo",
        "signs on e: IndexError: 3",
    ]
    write(book, {})
    assert matrix.gate(book)[1] == ["results/networks.json has no signs: make zoo"]


def test_too_many_refusals_are_named(book):
    record = matrix.load(book)
    record["signs"]["networks"]["a"]["state"] = "refused"
    write(book, record)
    assert matrix.gate(book)[1] == ["3 of 5 trials work: 80 % must"]


def test_a_damaged_record_and_an_unknown_technique_are_refused(book, tmp_path):
    with pytest.raises(ValueError, match="must be one of signs, not 'x'"):
        matrix.run(book, cores=1, only="x")
    (book / matrix.RECORD).write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        matrix.load(book)


def test_a_technique_without_a_contract_is_refused(book):
    (book / "survey" / "techniques.yml").write_text("- {id: signs, section: '2.4'}\n")
    with pytest.raises(ValueError, match="signs has no contract: give one, or zoo"):
        matrix.trials(book)


@pytest.fixture
def one_process(monkeypatch):
    """Trials end as the returned dictionary says, in this process; its keys are technique and network."""
    outcomes = {}

    class Pool:
        def __init__(self, *_, **__): ...
        def __enter__(self):
            return self

        def __exit__(self, *_): ...
        def submit(self, function, trial, network):
            future = Future()
            tried.append(network)
            future.set_result(trials.Outcome(outcomes.get(network, "works"), "so it ended", 0.0))
            return future

    tried = outcomes["tried"] = []
    monkeypatch.setattr(matrix, "ProcessPoolExecutor", Pool)
    return outcomes


def test_trials_that_end_as_recorded_hold(book, one_process, capsys):
    one_process["e"] = "refused"
    before = (book / matrix.RECORD).read_text()
    assert matrix.hold(book, minutes=5, cores=1) == 0
    assert sorted(one_process["tried"]) == list("abcde") and (book / matrix.RECORD).read_text() == before
    assert capsys.readouterr().out == "5 trials again, 0 ended otherwise\n"


def test_a_trial_that_ends_otherwise_is_named(book, one_process, capsys):
    one_process |= {"e": "refused", "b": "refused"}
    assert matrix.hold(book, minutes=5, cores=1) == 1
    assert "signs on b: held works, here refused: so it ended\n5 trials again, 1 ended" in capsys.readouterr().out


def test_other_trials_are_held_at_other_commits(book, one_process, monkeypatch):
    one_process["e"] = "refused"
    for turn in range(5):
        monkeypatch.setattr(matrix.reproduce, "turn", lambda root, turn=turn: turn)
        assert matrix.hold(book, minutes=0.04, cores=1) == 0  # room for one of a second and one of none, or one
    assert set(one_process["tried"]) == set("abcde") and len(one_process["tried"]) < 10


@pytest.mark.parametrize(
    ("minutes", "message"), [(0, "minutes must be above 0, not 0"), (0.001, "fits in 0.001 minutes: give it more")]
)
def test_no_time_for_trials_is_refused(book, minutes, message):
    with pytest.raises(ValueError, match=message):
        matrix.hold(book, minutes=minutes, cores=1)


def test_a_run_that_was_cut_goes_on_where_it_was(book, one_process, monkeypatch):
    monkeypatch.setattr(networks, "ZOO", dict.fromkeys("abcde"))
    monkeypatch.setattr(matrix, "as_completed", list)
    (book / matrix.RECORD).unlink()
    one_process["c"] = "fault"
    assert matrix.run(book, cores=1) == 1 and one_process["tried"] == list("abcde")
    (book / matrix.RECORD).unlink()
    one_process |= {"c": "works"}
    one_process["tried"].clear()
    assert matrix.run(book, cores=1) == 0 and one_process["tried"] == ["c"]  # what was a fault is tried again
    ended = matrix.load(book)["signs"]["networks"]
    assert [ended[name]["state"] for name in "abcde"] == ["works"] * 5
