"""Pages that tests build: each in a process of its own, a fork of one that has loaded Sphinx and what it needs.

Loading them is two thirds of the time in which a small book is built. Nothing of ``lib`` is loaded before: some of it
reads the environment as it is imported.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

LOADED = (
    *("jupyter_book.cli.main", "jupyter_book.sphinx", "sphinx.builders.html", "sphinx.search.en", "myst_nb.sphinx_ext"),
    *("sphinx_book_theme", "pydata_sphinx_theme", "sphinxcontrib.bibtex", "sphinx_external_toc", "sphinx_design"),
    *("sphinx_comments", "sphinx_copybutton", "sphinx_thebe", "sphinx_togglebutton", "sphinx_jupyterbook_latex"),
    *(
        "sphinx.domains.c",
        "sphinx.domains.cpp",
        "sphinx.builders.latex",
        "sphinx.builders.texinfo",
        "sphinx.ext.mathjax",
    ),
    *("fontTools.subset", "fontTools.ttLib.ttFont", "PIL.JpegImagePlugin", "sphinx_design.extension"),
    *("docutils.parsers.rst", "docutils.writers.html5_polyglot", "bs4", "jinja2", "pybtex.database", "pyphen"),
    *("scipy.special", "IPython.display", "jupytext", "papermill", "filelock", "yaml", "networkx"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg"),
)
FORKS = multiprocessing.get_context("forkserver")


class Build:
    """``python -c`` with Jupyter Book's command line: to its caller what ``subprocess.Popen`` would be.

    command: the words after ``python -c CODE``.
    folder: in which it works.
    environment: all of its variables.
    output: an open file for what it says.
    """

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str], output: IO) -> None:
        FORKS.set_forkserver_preload([*LOADED, "given_builds"])
        words = [str(word) for word in command]
        self.process = FORKS.Process(target=_build, args=(words, str(folder), environment, output.name))
        self.process.start()
        self.pid = self.process.pid

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit status; subprocess.TimeoutExpired after ``timeout`` seconds."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("the build", timeout or 0)
        return self.process.exitcode


def run(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess:
    """Build, and return what ``subprocess.run`` would, with all that was said in ``stdout``."""
    with tempfile.NamedTemporaryFile("r") as output:
        status = Build(command, folder, environment, output).wait()
        return subprocess.CompletedProcess(command, status, Path(output.name).read_text(), "")


def popen(command: list[str], stdout: IO, stderr: IO, cwd: Path, env: dict[str, str]) -> Build:
    """Take the place of ``subprocess.Popen`` where :mod:`lib.book.pages` starts Jupyter Book."""
    python, option, code, *words = command
    assert (python, option, stderr) == (sys.executable, "-c", stdout) and "jupyter_book" in code
    return Build(words, cwd, env, stdout)


def _build(words: list[str], folder: str, environment: dict[str, str], output: str) -> None:
    """What the fork does: ``python -c`` from here on. It ends with SystemExit."""
    with open(output, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, closefd=False) for number in (1, 2))
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    tests, first = str(Path(__file__).parent), environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = ["", *filter(None, first), *(place for place in sys.path if place not in ("", tests, *first))]
    sys.argv[:] = ["-c", *words]
    from jupyter_book.cli.main import main

    sys.exit(main())
