"""The lists of packages agree with each other, and the files that other machines read are what those expect."""

import json
import os
import re
import shutil
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


WORKFLOW = PROJECT / ".github" / "workflows" / "book.yml"


def workflow() -> dict:
    return yaml.safe_load(WORKFLOW.read_text())["jobs"]


def test_the_workflow_is_one():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    said = subprocess.run([*command, WORKFLOW], capture_output=True, text=True)
    assert said.returncode == 0, said.stdout


def test_every_step_of_the_workflow_is_a_target_of_make():
    runs = [step["run"] for job in workflow().values() for step in job["steps"] if "run" in step]
    targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    assert ".ci/run" in runs
    for line in runs:
        match = re.fullmatch(
            r"\.ci/run|make (?:--silent )?([a-z-]+)(?: PROFILE=standard)?(?: >> \"\$GITHUB_OUTPUT\")?", line
        )
        assert match and (match[1] is None or match[1] in targets), line


def test_jobs_need_jobs_and_outputs_that_there_are():
    jobs = workflow()
    for job in jobs.values():
        needs = job.get("needs", [])
        assert {needs} <= set(jobs) if isinstance(needs, str) else set(needs) <= set(jobs)
        for other, output in re.findall(r"needs\.(\w+)\.outputs\.(\w+)", str(job)):
            assert other in needs and output in jobs[other]["outputs"]
        used = set(re.findall(r"steps\.(\w+)\.", str(job)))
        assert used <= {step.get("id") for step in job["steps"]}
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout"):
                assert step["with"]["fetch-depth"] == 0  # reproduce and compare read earlier commits
    data = {s["with"]["key"] for job in jobs.values() for s in job["steps"] if s.get("with", {}).get("path") == "data"}
    assert len(data) == 1  # a job that looks for the data under another key would not find them


def test_the_matrix_has_what_the_workflow_reads_from_it():
    said = subprocess.run(
        [sys.executable, "-m", "lib.book.matrix", "quick"], cwd=PROJECT, capture_output=True, text=True
    )
    name, _, value = said.stdout.strip().partition("=")
    assert name == "matrix" and "\n" not in value, said.stderr
    rows = json.loads(value)["include"]
    read = set(re.findall(r"matrix\.(\w+)", str(workflow()["chapter"])))
    assert read == {"name", "chapters", "fingerprint"}
    assert all(set(row) == read for row in rows)
    chapters = sorted(path.stem for path in (PROJECT / "chapters").glob("*.py"))
    assert sorted(name for row in rows for name in row["chapters"].split()) == chapters


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


def pyproject() -> dict:
    return tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


# --- make, in a project whose lock names nothing: the environments are real, and empty -----------------------------

FOLDER = 'anna\'s "böök" $HOME `x` & co'
PROGRAM = "import sys\nprint('runs', __file__, sys.argv[1:])\n"


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run make as a person would."""
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=of_a_person() | environment, capture_output=True, text=True
    )


def of_a_person() -> dict[str, str]:
    """The environment without what the make that runs the tests has put into it, and without another path to lib."""
    ours = re.findall(r"^(\w+) \?=", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    others = {*ours, "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PYTHONPATH"}
    return {name: value for name, value in os.environ.items() if name not in others}


def new_project(folder: Path) -> Path:
    (folder / "lib").mkdir(parents=True)
    shutil.copy(PROJECT / "Makefile", folder)
    (folder / "requirements.lock").write_text("")
    (folder / "lib" / "__init__.py").write_text("")
    (folder / "lib" / "__main__.py").write_text(PROGRAM)
    return folder


def runs_its_own(folder: Path) -> bool:
    """Whether the environment, from anywhere, has this folder's lib, and its scripts this environment's Python."""
    where = "import lib, sys; print(lib.__file__); print(sys.prefix)"
    outside = {"cwd": "/", "env": of_a_person(), "capture_output": True, "text": True}
    said = subprocess.run([folder / ".venv/bin/python", "-c", where], **outside)
    pip = subprocess.run([folder / ".venv/bin/pip", "--version"], **outside)
    assert pip.returncode == 0, pip.stderr
    return (
        said.stdout.splitlines() == [f"{folder}/lib/__init__.py", f"{folder}/.venv"]
        and f"{folder}/.venv/" in pip.stdout
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A project with its environment, in a folder whose name a shell or Python would misread. Do not change it."""
    folder = new_project(tmp_path_factory.mktemp("projects") / FOLDER)
    said = make(folder, "book", "PROFILE=full", f"PYTHON={sys.executable}")
    assert said.returncode == 0, said.stderr
    assert said.stdout == f"runs {folder}/lib/__main__.py ['book', '--profile', 'full', '--cores', '2']\n"
    return folder


@pytest.fixture
def copied(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "a copy", symlinks=True)


def test_the_environment_is_made_once(made):
    assert runs_its_own(made)
    said = make(made, "book")
    assert said.returncode == 0 and "Making" not in said.stderr


def test_a_copy_runs_its_own_code_and_leaves_the_first_alone(made, copied):
    stamp = (made / ".venv" / ".complete").read_text()
    assert runs_its_own(copied)  # before make has seen it, too
    (copied / "lib" / "__main__.py").write_text("print('another')")
    said = make(copied, "book")
    assert said.stdout == "another\n", said.stderr
    assert f"VIRTUAL_ENV={copied}/.venv" in re.sub("['\"]", "", (copied / ".venv/bin/activate").read_text())
    assert runs_its_own(copied) and runs_its_own(made)
    assert (made / ".venv" / ".complete").read_text() == stamp
    assert "Making" not in make(copied, "book").stderr


def test_a_folder_that_moved_is_mended(copied, tmp_path):
    moved = copied.rename(tmp_path / "moved")
    said = make(moved, "book")
    assert said.stdout.startswith(f"runs {moved}/lib"), said.stderr
    assert runs_its_own(moved)
    assert "Making" not in make(moved, "book").stderr


def test_a_shared_environment_runs_the_code_of_who_shares_it(made, tmp_path):
    worktree = new_project(tmp_path / "worktree")
    (worktree / ".venv").symlink_to(made / ".venv")
    said = make(worktree, "book")
    assert said.stdout.startswith(f"runs {worktree}/lib") and "Making" not in said.stderr
    assert runs_its_own(worktree) and runs_its_own(made)


def test_a_shared_environment_that_does_not_fit_is_left_to_its_owner(made, tmp_path):
    worktree = new_project(tmp_path / "worktree")
    (worktree / ".venv").symlink_to(made / ".venv")
    (worktree / "requirements.lock").write_text("# another\n")
    stamp = (made / ".venv" / ".complete").read_text()
    said = make(worktree, "book")
    assert said.returncode == 0 and "Making" in said.stderr
    assert not (worktree / ".venv").is_symlink() and runs_its_own(worktree)
    assert (made / ".venv" / ".complete").read_text() == stamp and runs_its_own(made)


def _lock(folder):
    (folder / "requirements.lock").write_text("# another\n")


def _python_is_gone(folder):
    for link in (folder / ".venv" / "bin").glob("python*"):
        link.unlink()
        link.symlink_to("/nowhere/python")


def _python_is_another(folder):
    stamp = folder / ".venv" / ".complete"
    stamp.write_text(stamp.read_text().replace(stamp.read_text().split(",")[0], "3.10"))


def _interrupted(folder):
    (folder / ".venv" / ".complete").unlink()
    shutil.rmtree(next((folder / ".venv" / "lib").glob("python*/site-packages/pip")))


def _scripts_of_elsewhere(folder):
    (folder / ".venv" / ".complete").unlink()
    (folder / ".venv" / "bin" / "pip").write_text("#!/nowhere/python\n")


@pytest.mark.parametrize("harm", [_lock, _python_is_gone, _python_is_another, _interrupted, _scripts_of_elsewhere])
def test_an_environment_that_does_not_fit_is_made_again(copied, harm):
    assert make(copied, "book").returncode == 0
    harm(copied)
    said = make(copied, "book", f"PATH={Path(sys.executable).resolve().parent}:{os.environ['PATH']}")
    assert said.returncode == 0, said.stderr
    assert "Making" in said.stderr
    assert runs_its_own(copied)
    assert "Making" not in make(copied, "book").stderr


def test_an_installation_that_failed_is_not_taken_for_a_whole_one(tmp_path):
    project = new_project(tmp_path / "project")
    (project / "requirements.lock").write_text("./nowhere.whl\n")
    said = make(project, "book", f"PYTHON={sys.executable}")
    assert said.returncode != 0 and "Making" in said.stderr and "runs" not in said.stdout
    assert not (project / ".venv" / ".complete").exists()


def stub(folder: Path, name: str, version: str) -> None:
    """A Python of this version that only says what it is asked to do; without one, pyenv's place holder."""
    folder.mkdir(exist_ok=True)
    does = (
        f'case "$1" in -c) {version and f"echo {version}"};; *) echo "$0" "$@" >&2; exit 3;; esac'
        if version
        else "exit 127"
    )
    (folder / name).write_text(f"#!/bin/sh\n{does}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        ({"python3.11": "3.11", "python3.12": "3.12", "python3.13": "3.13"}, "python3.11"),
        ({"python3.12": "3.12", "python3.13": "3.13"}, "python3.12"),
        ({"python3.13": "3.13"}, "python3.13"),
        ({"python3": "3.12"}, "python3"),
    ],
)
def test_the_oldest_python_that_fits_is_taken(tmp_path, there, taken):
    project = new_project(tmp_path / "project")
    for name in ("python3.11", "python3.12", "python3.13", "python3"):
        stub(tmp_path / "tools", name, there.get(name, ""))
    said = make(project, "book", PATH=f"{tmp_path / 'tools'}:{os.environ['PATH']}")
    assert f"{tmp_path}/tools/{taken} -m venv --clear .venv" in said.stderr


@pytest.mark.parametrize("named", ["nopython", "./it's mine", ""])
def test_make_names_the_python_it_needs(tmp_path, named):
    project = new_project(tmp_path / "project")
    for name in ("python3.11", "python3.12", "python3.13", "python3"):
        stub(tmp_path / "tools", name, "")
    said = make(project, "book", f"PYTHON={named}", PATH=f"{tmp_path / 'tools'}:{os.environ['PATH']}")
    assert said.returncode != 0
    wrong = f"'{named}' is not that" if named else "none is on the path"
    assert f"Python 3.11, 3.12 or 3.13 with venv is needed, and {wrong}: install one" in said.stderr
    assert not (project / ".venv").exists()


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_another_python_of_this_machine_makes_the_environment_again(copied, version):
    python = interpreter(version)
    if python is None or version == f"{sys.version_info.major}.{sys.version_info.minor}":
        pytest.skip(f"no other Python {version} is here")
    said = make(copied, "book", f"PYTHON={python}")
    assert said.returncode == 0, said.stderr
    assert "Making" in said.stderr and (copied / ".venv/lib" / f"python{version}").is_dir()
    assert (copied / ".venv/.complete").read_text().startswith(version)
    assert runs_its_own(copied)
    again = make(copied, "book")  # no Python is named: the one that is there stays
    assert again.returncode == 0 and "Making" not in again.stderr


def interpreter(version: str) -> str | None:
    pyenv = sorted(
        Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions").glob(f"{version}.*/bin/python3")
    )
    for path in (shutil.which(f"python{version}"), *pyenv):
        if path and not subprocess.run([path, "-c", "import ensurepip, venv"], capture_output=True).returncode:
            return str(path)
    return None


@pytest.mark.parametrize(
    ("asked", "runs"),
    [
        (["reproduce"], ["reproduce", "--profile", "quick", "--cores", "2"]),
        (
            ["reproduce", "PROFILE=standard", "MINUTES=15", "CLAIM=it's", "CHAPTER=a b"],
            "reproduce --profile standard --cores 2 --claim|it's|--chapter|a b|--minutes|15",
        ),
        (["pages", "PROFILE=standard"], ["pages", "--profile", "standard"]),
        (["record", "CORES=1"], ["record", "--profile", "quick", "--cores", "1"]),
        (["compare"], ["compare", "--profile", "quick"]),
        (["check"], ["check", "--profile", "quick"]),
        (["doctor"], ["doctor"]),
        (["serve"], ["serve"]),
        (["chapters"], ["chapters", "--json", "--profile", "quick"]),
        (["chapter", "CHAPTER=one"], ["run", "one", "--profile", "quick"]),
        (["page", "CHAPTER=one", "PROFILE=standard"], ["page", "one", "--profile", "standard"]),
    ],
)
def test_targets_are_commands_of_the_package(made, asked, runs):
    if isinstance(runs, str):
        first, *values = runs.split("|")
        runs = [*first.split(), *values]
    said = make(made, *asked)
    assert said.stdout == f"runs {made}/lib/__main__.py {runs}\n", said.stderr


@pytest.mark.parametrize("target", ["chapter", "page"])
def test_a_chapter_must_be_named(made, target):
    said = make(made, target)
    assert said.returncode != 0 and "name a chapter" in said.stderr


def test_help_names_every_target():
    targets = re.search(r"\.PHONY: (help .*\n\.PHONY: .*)", (PROJECT / "Makefile").read_text())[1].split()
    said = make(PROJECT, "help").stdout
    for target in set(targets) - {"help", ".PHONY:", "FORCE"}:
        assert re.search(rf"\b{target}\b", said), target


# --- .ci/run, on a project whose commands do nothing but what a line says ------------------------------------------

SUITES = '<testsuites><testsuite tests="5" failures="{failures}" errors="0" skipped="1"/></testsuites>'
PASSED = "4 passed, 0 failed, 1 skipped"


def run_ci(tmp_path, *, failures=0, broken="", data=False, pythons=("3.11",), left="") -> subprocess.CompletedProcess:
    """Run .ci/run where make, git and the Pythons are stubs: ``broken`` is the make command that fails."""
    project, tools = tmp_path / "project", tmp_path / "tools"
    (project / ".ci").mkdir(parents=True)
    tools.mkdir()
    shutil.copy(PROJECT / ".ci" / "run", project / ".ci")
    report = "" if failures is None else f"echo '{SUITES.format(failures=failures)}' > _build/tests.xml"
    stubs = {
        "chromium": "",
        "apt-get": "",
        "git": f"echo '{left}'" if left else "",
        "make": f"""echo "made $*"
case "$*" in "test TESTS=--junit"*) {report or ":"};; esac
case "$*" in "{broken or "nothing"}"*) exit 1;; esac""",
    }
    for version in ("3.11", "3.12", "3.13"):
        stubs[f"python{version}"] = f'exec {sys.executable} "$@"' if version in pythons else "exit 127"
    for name, does in stubs.items():
        (tools / name).write_text(f"#!/bin/sh\n{does}\n")
        (tools / name).chmod(0o755)
    if data:
        (project / "data" / "MNIST").mkdir(parents=True)
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    return subprocess.run(["bash", project / ".ci" / "run"], env=environment, capture_output=True, text=True)


def test_ci_does_all_it_says(tmp_path):
    said = run_ci(tmp_path, data=True, pythons=("3.11", "3.12", "3.13"))
    made = [
        line.removeprefix("made ").split(" TESTS=")[0] for line in said.stdout.splitlines() if line.startswith("made")
    ]
    assert made == [
        *("environment PYTHON=python3.11", "doctor", "lint", "book", "test", "zoo MINUTES=3"),
        *("VENV=_build/newest environment PYTHON=python3.13", "VENV=_build/newest test"),
        *("VENV=_build/newest chapter CHAPTER=pruning", "reproduce PROFILE=standard MINUTES=15"),
    ]
    assert said.stdout.splitlines()[-1] == PASSED and said.returncode == 0, said.stdout + said.stderr


@pytest.mark.parametrize(
    "broken",
    [
        *("environment PYTHON=", "doctor", "lint", "book", "zoo"),
        *("VENV=_build/newest environment", "VENV=_build/newest test", "VENV=_build/newest chapter", "reproduce"),
    ],
)
def test_ci_goes_on_after_a_step_that_fails_and_fails(tmp_path, broken):
    said = run_ci(tmp_path, broken=broken, data=True, pythons=("3.11", "3.13"))
    assert "== 1 step failed" in said.stdout and said.returncode == 1
    assert "made reproduce" in said.stdout and "== clean checkout" in said.stdout
    assert said.stdout.splitlines()[-1] == PASSED


@pytest.mark.parametrize(
    ("failures", "last"), [(2, "2 passed, 2 failed, 1 skipped"), (None, "0 passed, 0 failed, 0 skipped")]
)
def test_ci_counts_the_tests(tmp_path, failures, last):
    said = run_ci(tmp_path, failures=failures, broken="test")
    assert said.stdout.splitlines()[-1] == last and said.returncode == 1
    assert "made lint" in said.stdout


def test_ci_fails_where_a_step_leaves_something_in_the_checkout(tmp_path):
    said = run_ci(tmp_path, left=" M results/quick/pruning.json")
    assert "results/quick/pruning.json" in said.stdout and "== clean checkout: FAILED" in said.stdout
    assert said.stdout.splitlines()[-1] == PASSED and said.returncode == 1


def test_ci_says_what_it_skips(tmp_path):
    said = run_ci(tmp_path, pythons=("3.12",))
    assert "made environment PYTHON=python3.12" in said.stdout
    assert "newest Python: skipped" in said.stdout and "_build/newest" not in said.stdout
    assert "verdicts: skipped" in said.stdout and "made reproduce" not in said.stdout
    assert said.returncode == 0


def test_ci_names_the_python_it_needs(tmp_path):
    said = run_ci(tmp_path, pythons=())
    assert said.returncode == 1 and "Python 3.11, 3.12 or 3.13 is needed" in said.stdout


# --- an installed lib -------------------------------------------------------------------------------------------------


def test_an_installed_lib_has_the_techniques_and_leaves_out_the_book(tmp_path):
    find = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    find_packages = pytest.importorskip("setuptools").find_packages  # newer Pythons come without it
    packages = find_packages(str(PROJECT), include=find["include"], exclude=find["exclude"])
    assert {"lib", "lib.pruning", "lib.pruning.shared", "lib.datasets", "lib.coding"} <= set(packages)
    assert not [name for name in packages if name.startswith("lib.book")]
    for name in packages:
        folder = tmp_path / name.replace(".", "/")
        folder.mkdir(parents=True, exist_ok=True)
        for file in (PROJECT / name.replace(".", "/")).glob("*.py"):
            shutil.copy(file, folder)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    python = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    code = "import lib, lib.storage; from lib.weights import form_named; print(lib.__file__, form_named('GridWeight'))"
    said = subprocess.run([sys.executable, "-c", code], **python)
    assert said.stdout.startswith(str(tmp_path)) and "whole_steps.GridWeight" in said.stdout, said.stderr
    said = subprocess.run([sys.executable, "-m", "lib", "book"], **python)
    assert said.returncode == 1 and "need a checkout" in said.stderr and len(said.stderr.splitlines()) == 1
