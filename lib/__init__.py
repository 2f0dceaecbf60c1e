"""Every technique of the survey, one file each, on a small shared ground floor."""

import os
import stat
import sys
import tempfile
from pathlib import Path

_private: tempfile.TemporaryDirectory | None = None  # removed when the process ends


def _find_place_for_compiled_code() -> None:
    """Give numba a private folder among the temporary files where it can write neither beside ``lib`` nor at home.

    Without one, ``import lib.storage`` raises. What is compiled there is found again by the user's next process.
    """
    if os.environ.get("NUMBA_CACHE_DIR") or _writable(_home_cache()) or _writable_beside_the_source():
        return
    try:
        place = _temporary_folder()
    except OSError:
        return  # not even a temporary file can be written: numba names the function that it cannot keep
    os.environ["NUMBA_CACHE_DIR"] = place
    if "numba" in sys.modules:  # it has read the environment already
        sys.modules["numba"].config.CACHE_DIR = place


def _home_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "numba")


def _writable_beside_the_source() -> bool:
    return all(
        _writable(path / "__pycache__") for path in {path.parent for path in Path(__file__).parent.rglob("*.py")}
    )


def _writable(folder: Path) -> bool:
    """Whether files can be written to the folder, which may still have to be made."""
    if not folder.is_absolute():
        return False  # a home that nobody knows stays "~": a folder of that name is not meant
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _temporary_folder() -> str:
    """A folder that nobody else can write: numba runs what it finds there."""
    global _private
    user = getattr(os, "getuid", int)()
    place = Path(tempfile.gettempdir(), f"survey-numba-{user}")
    if not os.path.lexists(place):
        place.mkdir(mode=0o700, exist_ok=True)
    about = place.lstat()
    if stat.S_ISDIR(about.st_mode) and about.st_uid == user and not about.st_mode & 0o077 and _writable(place):
        return str(place)
    _private = tempfile.TemporaryDirectory(prefix="survey-numba-")
    return _private.name


_find_place_for_compiled_code()
