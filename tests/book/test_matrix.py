"""The jobs of the published book: which chapters share one, and what its fingerprint follows."""

import json
import shutil
import subprocess
import sys

import pytest
from small_book import PROJECT, write_record

from lib import datasets
from lib.__main__ import main
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


# --- the workflow's jobs, on this machine: each in a checkout of its own -------------------------------------------


@pytest.mark.book
@pytest.mark.usefixtures("warm_runs")
def test_runs_of_separate_jobs_become_one_book(small_book, add_chapter, tmp_path, capfd):
    figure = 'figures.show(figures.axes()[0], alt=TEXT, name="fig-second", caption=TEXT, finding=TEXT, lead=True)'
    record = 'evidence.record("second.sum.value", [1], unit="", digits=0)'
    add_chapter("second", f'from lib import evidence, figures\n\n{record}\nTEXT = "Axes without any line"\n{figure}')
    for profile in ("quick", "standard"):
        write_record(small_book, profile, [1.0], "second")

    assert main(["--root", str(small_book), "chapters", "--json"]) == 0
    jobs = matrix.jobs(json.loads(capfd.readouterr().out))
    assert [job["chapters"] for job in jobs] == ["passes", "second"]
    uploads = []
    for job in jobs:
        checkout = shutil.copytree(small_book, tmp_path / job["name"])
        for chapter in job["chapters"].split():
            command = [sys.executable, "-m", "lib", "--root", checkout, "run", chapter]
            said = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
            assert said.returncode == 0, said.stdout + said.stderr
        uploads.append(checkout / "_build" / "executed" / "quick")

    runs = small_book / "_build" / "executed" / "quick"
    shutil.copytree(uploads[0], runs)
    assert main(["--root", str(small_book), "pages"]) == 1
    assert "second" in capfd.readouterr().err  # a job that failed is named
    shutil.copytree(uploads[1], runs, dirs_exist_ok=True)
    assert main(["--root", str(small_book), "pages"]) == 0, capfd.readouterr().err
    assert all((small_book / "_build/html/chapters" / f"{name}.html").exists() for name in ("passes", "second"))
