"""The lists of packages agree with each other, and the files that other machines read are what those expect."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[1]
CONDA_NAMES = {"pytorch-cpu": "torch", "matplotlib-base": "matplotlib"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def lock() -> dict[str, str]:
    lines = (PROJECT / "requirements.lock").read_text().splitlines()
    pins = [line.split("==") for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return {normal(name): version.split()[0] for name, version in pins}


def direct() -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in (PROJECT / "requirements.in").read_text().splitlines()]
    return {normal(re.match(r"[\w.-]+", line)[0]): line for line in lines if line}


def test_the_lock_names_exact_versions_of_the_public_index():
    lines = [x for x in (PROJECT / "requirements.lock").read_text().splitlines() if x.strip() and not x.startswith("#")]
    assert len(lines) > 50
    for line in lines:
        assert re.fullmatch(r"[\w.-]+==[\w.]+", line.strip()), line  # no "+cpu", no index, no address, no range


def test_every_direct_requirement_is_locked_and_needed_versions_hold():
    pins = lock()
    assert len(direct()) > 20
    for name, line in direct().items():
        assert name in pins, f"{name} stands in requirements.in and not in requirements.lock: make lock"
        if "==" in line:
            assert pins[name] == line.split("==")[1]
    assert pins["jupyter-book"].startswith("1.")


def test_the_lock_is_what_is_installed():
    from importlib.metadata import version

    wrong = {name: pin for name, pin in lock().items() if version(name).split("+")[0] != pin}
    assert not wrong, f"installed otherwise than locked: {wrong}"


def test_conda_names_the_versions_of_the_lock():
    pins = lock()
    listed = yaml.safe_load((PROJECT / "environment.yml").read_text())["dependencies"]
    inner = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    named = [entry for entry in listed if isinstance(entry, str)] + [entry for entry in inner if entry != "-e ."]
    assert "-e ." in inner
    assert "python=3.11" in named
    checked = 0
    for name, version in (re.split("=+", entry) for entry in named if "=" in entry and not entry.startswith("python=")):
        pin = pins[normal(CONDA_NAMES.get(name, name))]
        assert f"{pin}.".startswith(f"{version}."), f"environment.yml has {name} {version}, the lock {pin}"
        checked += 1
    assert checked > 10


def test_conda_has_all_that_a_chapter_imports():
    """Binder runs chapters, and imports what they and lib import; it builds no page."""
    listed = yaml.safe_load((PROJECT / "environment.yml").read_text())["dependencies"]
    names = {re.split("=+", entry)[0] for entry in listed if isinstance(entry, str)}
    names |= {re.split("=+", entry)[0] for entry in next(e["pip"] for e in listed if isinstance(e, dict))}
    have = {normal(CONDA_NAMES.get(name, name)) for name in names}
    needed = {normal(re.match(r"[\w.-]+", entry)[0]) for entry in pyproject()["optional-dependencies"]["techniques"]}
    assert needed - have <= {"ipython"}  # comes with ipykernel


def test_readers_get_lower_bounds_that_the_lock_satisfies():
    pins, checked = lock(), 0
    for entry in pyproject()["optional-dependencies"]["techniques"]:
        name, _, least = entry.partition(">=")
        assert _numbers(pins[normal(name)]) >= _numbers(least), entry
        checked += 1
    assert checked > 10
    assert pyproject()["dependencies"] == []  # `-e .` must not let pip replace conda's torch


def test_the_workflow_is_one():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    path = PROJECT / ".github" / "workflows" / "book.yml"
    said = subprocess.run([*command, path], capture_output=True, text=True)
    assert said.returncode == 0, said.stdout
    assert ".ci/run" in path.read_text()


def test_a_wrong_workflow_is_found(tmp_path):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    path = tmp_path / "book.yml"
    path.write_text((PROJECT / ".github" / "workflows" / "book.yml").read_text().replace("runs-on:", "run-on:"))
    assert subprocess.run([*command, path], capture_output=True).returncode == 1


@pytest.mark.parametrize("name", [".ci/run", "postBuild"])
def test_scripts_are_executable_and_readable_by_bash(name):
    assert os.access(PROJECT / name, os.X_OK)
    subprocess.run(["bash", "-n", PROJECT / name], check=True)
    assert "set -euo pipefail" in (PROJECT / name).read_text()


def test_binder_opens_a_chapter_as_a_notebook(tmp_path):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    environment["JUPYTER_CONFIG_DIR"] = str(tmp_path / "jupyter")
    subprocess.run([PROJECT / "postBuild"], env=environment, check=True, capture_output=True)
    assert "Jupytext Notebook" in (tmp_path / "jupyter/labconfig/default_setting_overrides.json").read_text()


@pytest.mark.parametrize("folder", ["binder", ".binder"])
def test_binder_finds_the_files_at_the_top(folder):
    assert not (PROJECT / folder).exists()  # such a folder would hide environment.yml and postBuild


def test_make_names_the_python_it_needs(tmp_path):
    for name in ("Makefile", "requirements.lock"):
        (tmp_path / name).write_text((PROJECT / name).read_text())
    said = subprocess.run(["make", "-C", tmp_path, "book", "PYTHON=nopython"], capture_output=True, text=True)
    assert said.returncode != 0
    assert "Python 3.11 is needed, and 'nopython' is not that" in said.stderr
    assert not (tmp_path / ".venv").exists()


def pyproject() -> dict:
    return tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


# --- .ci/run, on a project whose commands do nothing but what a line says ------------------------------------------

SUITES = '<testsuites><testsuite tests="5" failures="{failures}" errors="0" skipped="1"/></testsuites>'


@pytest.mark.parametrize(
    ("failures", "broken", "data", "last", "status"),
    [
        (0, "", False, "4 passed, 0 failed, 1 skipped", 0),
        (0, "", True, "4 passed, 0 failed, 1 skipped", 0),
        (2, "test", False, "2 passed, 2 failed, 1 skipped", 1),
        (0, "lint", False, "4 passed, 0 failed, 1 skipped", 1),
        (0, "book", False, "4 passed, 0 failed, 1 skipped", 1),
        (None, "test", False, "0 passed, 0 failed, 0 skipped", 1),
    ],
)
def test_ci_goes_on_after_a_failure_and_counts(tmp_path, failures, broken, data, last, status):
    project, tools = tmp_path / "project", tmp_path / "tools"
    (project / ".ci").mkdir(parents=True)
    tools.mkdir()
    (project / ".ci" / "run").write_text((PROJECT / ".ci" / "run").read_text())
    for name in ("chromium", "git", "make"):
        (tools / name).write_text("#!/bin/sh\n")
    report = "" if failures is None else f"echo '{SUITES.format(failures=failures)}' > _build/tests.xml"
    (tools / "make").write_text(
        f'#!/bin/sh\necho "made $*"\n[ "$1" != test ] || {report or "true"}\n[ "$1" != "{broken}" ]\n'
    )
    for tool in tools.iterdir():
        tool.chmod(0o755)
    if data:
        (project / "data" / "MNIST").mkdir(parents=True)

    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    said = subprocess.run(["bash", project / ".ci" / "run"], env=environment, capture_output=True, text=True)

    assert said.stdout.splitlines()[-1] == last, said.stderr
    assert said.returncode == status
    assert "made lint" in said.stdout
    assert "made book\n" in said.stdout
    assert ("made book PROFILE=standard" in said.stdout) == data
