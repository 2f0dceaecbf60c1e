"""Where data sets are on this machine, and how missing ones get there.

A set is looked for in the folder that ``SURVEY_DATA`` names, then in ``data/`` of the working folder, then in ``data/``
of the checkout. A download goes to ``data/`` of the checkout (of the working folder if lib is installed without one).
The folder that ``SURVEY_DATA`` names belongs to the user and is only read.
"""

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
EMBEDDED = ("digits", "street-digits", "monks-1-rule", "monks-2-rule", "monks-3-rule")
_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
# The parts of each set below a root, each with the names it may have; the first name that exists counts.
PARTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "mnist": tuple((f"MNIST/raw/{file}", f"MNIST/raw/{file}.gz") for file in _IDX),
    "fashion-mnist": tuple((f"FashionMNIST/raw/{file}", f"FashionMNIST/raw/{file}.gz") for file in _IDX),
    "cifar10": (("cifar10.zip", "cifar10", "cifar-10-batches-py"),),
    "camvid": (("camvid.zip", "camvid"),),
    "spoken-digits": (("fsdd.zip", "fsdd"),),
    "vowel": (("vowel/train.csv",), ("vowel/test.csv",)),
    **{f"monks-{i}": ((f"monks/monks-{i}_train.csv",), (f"monks/monks-{i}_test.csv",)) for i in (1, 2, 3)},
}

CONNECT_S = 15.0  # how long a server may take to accept a connection ...
SILENCE_S = 30.0  # ... and to send the next bytes
SLOWEST = 1_000  # bytes a second, on average over SILENCE_S: a slower download would take days
PROGRESS_S = 5.0  # between two lines that report how far a download is
TRIES = 5  # connections for one file: a broken one is retried if at least some bytes came


def roots(root: Path | None = None) -> list[Path]:
    """Return the folders in which data sets are looked for, in this order; they need not exist.

    root: a book's root, used instead of the working folder; None (default) is the working folder.

    Raises ValueError if ``SURVEY_DATA`` names a file.
    """
    named = os.environ.get("SURVEY_DATA")
    if named and Path(named).is_file():
        raise ValueError(f"SURVEY_DATA names the file {named}: accepted is a folder")
    places = [*([Path(named)] if named else []), (root or Path()) / "data", CHECKOUT / "data"]
    return list(dict.fromkeys(places))


def files(name: str, root: Path | None = None) -> list[Path]:
    """Return the files or folders of a data set, from the first root that has all of them; [] if none has.

    name: one of ``lib.datasets.NAMES`` (the embedded ones have no files), or the path of an image folder or zip, as it
        is or below a root.
    root: a book's root, whose ``data/`` is looked in instead of the working folder's. Chapters run in its
        ``chapters/``, so a relative path starts there.

    Raises FileNotFoundError for a data folder without permission to read; it is not skipped, since a copy elsewhere may
    be another set.
    """
    if name in EMBEDDED or not name:
        return []
    with readable():
        if name in PARTS:
            return next(filter(None, (_within(place, name) for place in roots(root))), [])
        start = root / "chapters" if root else Path()
        return next(([path] for place in (start, *roots(root)) if _exists(path := place / name)), [])


def contents(path: Path) -> dict[str, Path]:
    """Return all files below a folder, by name ("a/b.png") and in the order of their names; a file itself is named "".

    Links are followed at any depth.

    path: of the folder or file.

    Raises ValueError for a link that is broken or leads back to a folder that holds it.
    """
    with readable():
        return dict(sorted(_walk(path, "", ()))) if path.is_dir() else {"": path}


def obtain(name: str, download: Callable[[Path], None]) -> list[Path]:
    """Return the files of a set, after downloading it if no root has it. Two processes download a set only once.

    name: of a set in ``PARTS``.
    download: called with the folder in which it must put the set's parts.

    Raises FileNotFoundError, which says where the set was looked for, what went wrong, and where to put it by hand.
    """
    if found := files(name):
        return found
    home = _home()
    try:
        import filelock

        home.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(home / f".{name}.lock"):
            if not _within(home, name):  # another process may have downloaded it meanwhile
                download(home)
    except (OSError, ValueError) as error:
        tried = ", ".join(str(place) for place in roots())
        parts = " and ".join(spellings[0] for spellings in PARTS[name])
        raise FileNotFoundError(
            f"the data set {name!r} is in none of {tried} and could not be downloaded ({_sentence(error, home)}):"
            f" put {parts} into the folder that SURVEY_DATA names"
        ) from error
    return _within(home, name)


def fetch(urls: str | Sequence[str], path: Path, known_hash: str | None = None) -> Path:
    """Download one file, completely or not at all, unless it is there already; return its path.

    A broken download stays in ``<path>.part`` and is continued if the server supports ranges. A long download prints a
    line every few seconds.

    urls: the file's address, or several, tried in this order.
    path: where to put the file.
    known_hash: its checksum, "sha256:..." or "md5:..."; None if the caller checks the content.

    Raises ValueError for a web page or another file than the published one; OSError for a server that does not answer,
    refuses, is too slow or breaks off, and for a full disk.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")  # it reports to stderr, where a chapter must write nothing
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    problems = []
    for url in [urls] if isinstance(urls, str) else urls:
        while True:
            continued = part.exists()
            try:
                return Path(
                    pooch.retrieve(url, known_hash, path.name, path.parent, downloader=partial(_download, part))
                )
            except (ValueError, OSError) as error:
                if part.exists() and not part.stat().st_size:
                    part.unlink()
                differs = isinstance(error, ValueError) and "does not match the known hash" in str(error)
                if differs and continued:  # the file may have changed between the two parts: once more, from its start
                    continue
                if differs:
                    error = ValueError(f"{url} is not the published file: its checksum is another")
                problems.append(error)
                break
    raise problems[0]


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a path to write to; the file becomes ``path`` if the block succeeds, and is removed otherwise.

    path: of the file; missing folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def readable() -> Iterator[None]:
    """Inside the block, a file or folder without permission to read is a FileNotFoundError, which names it."""
    try:
        yield
    except PermissionError as error:
        raise FileNotFoundError(
            f"{error.filename} cannot be read: give this user the right to read it,"
            " or let SURVEY_DATA name another folder"
        ) from error


def _home() -> Path:
    return CHECKOUT / "data" if (CHECKOUT / "pyproject.toml").is_file() else Path("data")


def _within(place: Path, name: str) -> list[Path]:
    """The parts of a set below one root, or [] if one is missing."""
    parts = [next((place / s for s in spellings if _exists(place / s)), None) for spellings in PARTS[name]]
    return [part for part in parts if part] if all(parts) else []


def _exists(path: Path) -> bool:
    """Whether the path exists. Unlike ``Path.exists``, raises PermissionError in every Python if it cannot tell."""
    try:
        path.stat()
    except PermissionError:
        raise
    except (OSError, ValueError):  # the second: a name with a null character
        return False
    return True


def _walk(folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, Path]]:
    about = folder.stat()
    if (about.st_dev, about.st_ino) in above:
        raise ValueError(f"{folder} is a link to a folder that holds it: remove it")
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/", (*above, (about.st_dev, about.st_ino)))
        elif entry.is_file():
            yield f"{prefix}{entry.name}", entry
        elif entry.is_symlink() and not entry.name.startswith("."):  # links of file managers may be broken
            raise ValueError(f"{entry} is a broken link: fix or remove it")


def _download(part: Path, url: str, output: str, _: object) -> None:
    """A downloader for pooch, whose own starts over after each break."""
    import requests
    import urllib3

    tries = TRIES
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _append(url, part)
            break
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            tries -= 1
            after = part.stat().st_size if part.exists() else 0
            if not tries or after == before:
                raise OSError(f"{url} does not answer or breaks off: {_cause(error)}") from error
    part.replace(output)


def _append(url: str, part: Path) -> None:
    """One request for the missing rest of a file. Raises requests' and urllib3's errors if the connection breaks."""
    import requests
    import urllib3

    got = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={got}-"} if got else {})
    with requests.get(url, headers=headers, stream=True, timeout=(CONNECT_S, SILENCE_S)) as answer:
        sent = answer.headers.get("Content-Range", "")
        if answer.status_code == 416 and sent.removeprefix("bytes */") == str(got):
            return  # nothing is missing
        continued = answer.status_code == 206 and sent.startswith(f"bytes {got}-")
        if answer.status_code in (206, 416) and not continued:  # another part than the one asked for
            part.unlink()
            return _append(url, part)
        if not answer.ok:
            raise OSError(f"{url} answers {answer.status_code} {answer.reason}")
        if "text/html" in answer.headers.get("Content-Type", ""):
            raise ValueError(f"{url} sends a web page instead of the data")
        got = got if continued else 0
        missing = int(answer.headers.get("Content-Length", 0))
        if missing > (free := shutil.disk_usage(part.parent).free):
            raise OSError(errno.ENOSPC, f"{url} needs {missing / 1e6:.0f} MB, {part.parent} has {free / 1e6:.0f} MB")
        total = got + missing if missing else None
        told = paced = time.monotonic()
        since = got
        with part.open("ab" if continued else "wb") as file:
            while piece := answer.raw.read1(1 << 16):
                if not got and piece.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
                    raise ValueError(f"{url} sends a web page instead of the data")
                file.write(piece)
                got, now = got + len(piece), time.monotonic()
                if now - paced > SILENCE_S:
                    if got - since < SLOWEST * SILENCE_S:
                        raise OSError(f"{url} is too slow: less than {SLOWEST} bytes a second")
                    paced, since = now, got
                if now - told > PROGRESS_S:
                    of = f" of {total / 1e6:.0f}" if total else ""
                    print(f"downloading {part.stem}: {got / 1e6:.0f}{of} MB", flush=True)
                    told = now
    if total not in (None, got):
        raise urllib3.exceptions.ProtocolError(f"{got:,} of {total:,} bytes came")
    return None


def _cause(error: BaseException) -> str:
    """The innermost reason, in a few words: requests wraps urllib3's errors, which wrap the system's."""
    while inner := getattr(error, "reason", None) or next((a for a in error.args if isinstance(a, Exception)), None):
        if not isinstance(inner, Exception):
            break
        error = inner
    said = " ".join(str(error.args[-1] if error.args else error).split())
    return said.split(": ", 1)[-1] or type(error).__name__


def _sentence(error: BaseException, home: Path) -> str:
    if isinstance(error, PermissionError):
        return f"{error.filename or home} cannot be written"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk is full: {error.strerror}"
    return " ".join(str(error).split()).rstrip(".:")
