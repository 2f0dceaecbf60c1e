"""Users without a home folder, and packages that they cannot write: service accounts, containers, clusters."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
OWN = ("HOME", "MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "NUMBA_CACHE_DIR", "SURVEY_CACHE")
WEAK = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]
UNKNOWN = ["setpriv", "--reuid=61234", "--regid=61234", "--clear-groups"]
SAYS = "import os, lib; print(os.environ.get('NUMBA_CACHE_DIR'), lib.__file__)"  # set before numba is imported
COMPILES = f"from lib import storage; {SAYS}"  # seconds


def without_home(command: list, prefix: list[str] = (), **environment: str) -> subprocess.CompletedProcess:
    """Run Python as root without root's right to ignore permissions, or as a user whom the machine does not know."""
    if prefix and (os.getuid() or not shutil.which("setpriv")):
        pytest.skip("needs root and setpriv, to give up rights")
    kept = {name: value for name, value in os.environ.items() if name not in OWN}
    command = [*prefix, sys.executable, *command]
    return subprocess.run(command, env=kept | environment, cwd="/", capture_output=True, text=True, timeout=120)


@pytest.fixture
def package(tmp_path) -> Path:
    """A copy of lib that nobody can write, in the folder that is returned."""
    shutil.copytree(PROJECT / "lib", tmp_path / "site" / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    closed(tmp_path / "site")
    (tmp_path / "tmp").mkdir()
    return tmp_path / "site"


def closed(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    return folder


@pytest.mark.parametrize("home", ["closed", "/dev/null", "/proc/no/home", None])
def test_lib_is_imported_where_neither_it_nor_a_home_can_be_written(package, tmp_path, home):
    place = {"HOME": str(closed(tmp_path / "home")) if home == "closed" else home} if home else {}
    for path in (tmp_path, *tmp_path.parents[:4]):  # as deep as a process of several puts it
        path.chmod(path.stat().st_mode | 0o055)  # the way there is open, also to others
    (tmp_path / "tmp").chmod(0o1777)
    prefix = WEAK if home else UNKNOWN
    environment = place | {"PYTHONPATH": str(package), "TMPDIR": str(tmp_path / "tmp")}
    said = without_home(["-c", COMPILES if home == "closed" else SAYS], prefix, **environment)
    if not home and "Permission denied" in said.stderr and not said.stdout:
        pytest.skip("another user cannot run this Python")
    assert said.returncode == 0, said.stderr
    cache, file = said.stdout.split()
    assert file == f"{package}/lib/__init__.py"
    assert Path(cache).parent == tmp_path / "tmp" and any(Path(cache).iterdir()) == (home == "closed")
    assert not Path(cache).stat().st_mode & 0o077
    assert without_home(["-c", SAYS], prefix, **environment).stdout.split()[0] == cache  # what is compiled is kept


def _open_to_all(place):
    place.mkdir()
    place.chmod(0o777)


def _of_another(place):
    place.mkdir(mode=0o700)
    os.chown(place, 61234, 61234)


def _link(place):
    place.with_name("elsewhere").mkdir()
    place.symlink_to(place.with_name("elsewhere"))


def _file(place):
    place.write_text("")


@pytest.mark.parametrize("planted", [_open_to_all, _of_another, _link, _file])
def test_a_folder_that_somebody_else_laid_there_is_not_used(package, tmp_path, planted):
    if os.getuid():
        pytest.skip("needs root, to give a folder away")
    planted(tmp_path / "tmp" / f"survey-numba-{os.getuid()}")
    environment = {"PYTHONPATH": str(package), "TMPDIR": str(tmp_path / "tmp"), "HOME": "/dev/null"}
    said = without_home(["-c", SAYS], WEAK, **environment)
    assert said.returncode == 0, said.stderr
    cache = Path(said.stdout.split()[0])
    assert cache.parent == tmp_path / "tmp" and cache.name != f"survey-numba-{os.getuid()}"
    assert not cache.exists()  # it went with its process


@pytest.mark.parametrize("open_place", ["home", "lib", "named"])
def test_nothing_is_changed_where_there_is_a_place(package, tmp_path, open_place):
    environment = {"PYTHONPATH": str(package), "TMPDIR": str(tmp_path / "tmp"), "HOME": "/dev/null"}
    if open_place == "home":
        environment["HOME"] = str(tmp_path / "home")
        (tmp_path / "home").mkdir()
    if open_place == "named":
        environment["NUMBA_CACHE_DIR"] = str(tmp_path / "named")
    if open_place == "lib":
        for path in (package, *package.rglob("*")):
            path.chmod(path.stat().st_mode | stat.S_IWUSR)
    said = without_home(["-c", SAYS], WEAK, **environment)
    assert said.returncode == 0, said.stderr
    assert said.stdout.split()[0] == (environment["NUMBA_CACHE_DIR"] if open_place == "named" else "None")
    assert not list((tmp_path / "tmp").glob("survey-numba-*"))


def test_numba_that_was_imported_first_is_told(package, tmp_path):
    environment = {"PYTHONPATH": str(package), "TMPDIR": str(tmp_path / "tmp"), "HOME": "/dev/null"}
    said = without_home(["-c", f"import numba; {COMPILES}"], WEAK, **environment)
    assert said.returncode == 0, said.stderr


def test_the_package_is_light():
    script = "import sys, lib; print(sorted({'numba', 'torch', 'numpy', 'matplotlib'} & set(sys.modules)))"
    assert without_home(["-c", script], PYTHONPATH=str(PROJECT), HOME="/dev/null").stdout == "[]\n"


HOMES = {"no folder": {"HOME": "/dev/null"}, "none": {}}


@pytest.mark.book
@pytest.mark.parametrize("home", [*HOMES, "closed"])
def test_a_chapter_that_draws_runs_without_a_home(small_book, tmp_path, home):
    environment = HOMES[home] if home in HOMES else {"HOME": str(closed(tmp_path / "home"))}
    command = ["-m", "lib", "--root", str(small_book), "run", "passes"]
    said = without_home(command, WEAK if home == "closed" else [], PYTHONPATH=str(PROJECT), **environment)
    assert said.returncode == 0, said.stdout + said.stderr
    assert (small_book / "_build/executed/quick/passes.ipynb").exists()


@pytest.mark.parametrize("home", HOMES)
def test_figures_are_imported_without_a_home(tmp_path, home):
    said = without_home(["-c", "from lib import figures"], PYTHONPATH=str(PROJECT), **HOMES[home])
    assert said.returncode == 0, said.stderr
