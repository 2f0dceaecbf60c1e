"""The jobs of the published book: which chapters share one, and what its fingerprint follows."""

import pytest

from lib import datasets
from lib.book import matrix


def rows(**needs: str) -> list[dict]:
    return [
        {"chapter": name, "fingerprint": f"of {name}", "needs": on.split(), "data": []} for name, on in needs.items()
    ]


@pytest.mark.parametrize(
    ("needs", "jobs"),
    [
        ({"a": "", "b": ""}, ["a", "b"]),
        ({"a": "b", "b": "", "c": ""}, ["b a", "c"]),
        ({"a": "c", "b": "c", "c": "", "d": "e", "e": ""}, ["c a b", "e d"]),
        ({"a": "b c", "b": "d", "c": "e", "d": "", "e": "", "f": ""}, ["d b e c a", "f"]),
        ({"a": "", "b": "", "c": "a b"}, ["a b c"]),
        ({}, []),
    ],
)
def test_chapters_that_need_each_other_share_a_job_in_order(needs, jobs):
    found = matrix.jobs(rows(**needs))
    assert sorted(job["chapters"] for job in found) == sorted(jobs)
    assert all(job["name"] == job["chapters"].split()[0] for job in found)


def test_a_job_has_a_new_fingerprint_where_one_of_its_chapters_has():
    old = {job["name"]: job["fingerprint"] for job in matrix.jobs(rows(a="b", b="", c=""))}
    changed = rows(a="b", b="", c="")
    changed[0]["fingerprint"] = "another"
    new = {job["name"]: job["fingerprint"] for job in matrix.jobs(changed)}
    assert new["c"] == old["c"] and new["b"] != old["b"]


@pytest.mark.parametrize("needs", [{"a": "nobody"}, {"a": "a"}, {"a": "b", "b": "a"}])
def test_a_need_that_cannot_be_met_is_named(needs):
    with pytest.raises(ValueError, match="a needs"):
        matrix.jobs(rows(**needs))


def test_every_data_set_that_a_chapter_names_is_loaded_once(monkeypatch, capsys):
    loaded = []
    monkeypatch.setattr(datasets, "load", loaded.append)
    matrix.load([{"data": ["mnist", "digits"]}, {"data": []}, {"data": ["mnist"]}])
    assert loaded == ["digits", "mnist"]
    assert capsys.readouterr().out == "loading digits\nloading mnist\n"
