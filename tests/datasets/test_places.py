"""Where data lie, and downloads: all of a file or nothing, continued, and one sentence where it cannot be had."""

import errno
import hashlib
import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lib import datasets
from lib.datasets import places

CONTENT = bytes(range(256)) * 400  # 100 kB
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "file.bin"


def left(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


# -- Where data lie ----------------------------------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Path]:
    """The named folder, data/ of the working folder, data/ of the checkout."""
    named, working, checkout = tmp_path / "named", tmp_path / "working" / "data", tmp_path / "checkout" / "data"
    for folder in (named, working, checkout):
        folder.mkdir(parents=True)
    monkeypatch.setenv("SURVEY_DATA", str(named))
    monkeypatch.chdir(working.parent)
    monkeypatch.setattr(places, "CHECKOUT", checkout.parent)
    return named, working, checkout


def test_the_first_root_that_has_all_of_a_set_counts(three):
    for root in reversed(three):
        (root / "monks").mkdir()
        for split in ("train", "test"):
            assert all(path.parent.parent.resolve() != root for path in places.files("monks-2"))
            (root / "monks" / f"monks-2_{split}.csv").touch()  # a test file without its training file does not count
        assert [path.resolve() for path in places.files("monks-2")] == [
            root / "monks" / f"monks-2_{split}.csv" for split in ("train", "test")
        ]
    assert places.files("monks-1") == []


@pytest.mark.parametrize("part", places.PARTS)
def test_each_set_is_found_under_each_of_its_names(part, three):
    for k in range(max(map(len, places.PARTS[part]))):
        for spellings in places.PARTS[part]:
            path = three[1] / spellings[min(k, len(spellings) - 1)]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        found = places.files(part)
        assert len(found) == len(places.PARTS[part]) and all(path.exists() for path in found)
        for path in found:
            path.unlink()


def test_a_books_root_stands_for_the_working_folder(three, tmp_path):
    (three[1] / "camvid.zip").touch()
    assert places.files("camvid", tmp_path / "book") == []
    (tmp_path / "book" / "data").mkdir(parents=True)
    (tmp_path / "book" / "data" / "camvid.zip").touch()
    assert places.files("camvid", tmp_path / "book") == [tmp_path / "book" / "data" / "camvid.zip"]
    (three[0] / "camvid.zip").touch()
    assert places.files("camvid", tmp_path / "book") == [three[0] / "camvid.zip"]


def test_a_path_stands_for_itself_and_embedded_sets_have_no_files(three, tmp_path):
    (tmp_path / "insects.zip").touch()
    (three[0] / "digits").mkdir()
    (three[0] / "plants").mkdir()
    (three[1].parent / "plants").mkdir()
    assert places.files(str(tmp_path / "insects.zip"), tmp_path) == [tmp_path / "insects.zip"]
    assert places.files("plants") == [Path("plants")] and places.files("plants", tmp_path) == [three[0] / "plants"]
    for name in (*places.EMBEDDED, "", "nothing", "a\0b"):
        assert places.files(name) == []
    (tmp_path / "chapters" / "fish").mkdir(parents=True)
    assert places.files("fish", tmp_path) == [tmp_path / "chapters" / "fish"]  # where the book's chapters run


def test_names_are_those_of_places():
    assert set(datasets.NAMES) == {*places.EMBEDDED, *places.PARTS}


def test_a_file_as_data_root_is_refused(three, monkeypatch):
    (three[0] / "file").touch()
    monkeypatch.setenv("SURVEY_DATA", str(three[0] / "file"))
    with pytest.raises(ValueError, match=r"SURVEY_DATA names the file .*: accepted is a folder"):
        places.files("mnist")


def test_asking_where_data_lie_imports_nothing_heavy():
    code = (
        "import sys, lib.datasets, lib.datasets.places as p; p.files('mnist');"
        "print({'torch', 'torchvision', 'numpy', 'sklearn', 'scipy', 'pooch', 'requests'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_contents_follow_links_at_any_depth(tmp_path):
    (tmp_path / "store" / "deep").mkdir(parents=True)
    (tmp_path / "store" / "deep" / "a.png").write_text("a")
    (tmp_path / "tree" / "x").mkdir(parents=True)
    (tmp_path / "tree" / "x" / "linked").symlink_to(tmp_path / "store")
    (tmp_path / "tree" / "again").symlink_to(tmp_path / "store" / "deep")
    (tmp_path / "tree" / "file.png").symlink_to(tmp_path / "store" / "deep" / "a.png")
    (tmp_path / "root").symlink_to(tmp_path / "tree")
    for root in (tmp_path / "tree", tmp_path / "root"):
        found = places.contents(root)
        assert list(found) == ["again/a.png", "file.png", "x/linked/deep/a.png"]
        assert {path.read_text() for path in found.values()} == {"a"}
    assert places.contents(tmp_path / "tree" / "file.png") == {"": tmp_path / "tree" / "file.png"}


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_a_link_to_a_folder_that_holds_it_is_refused(depth, tmp_path):
    folder = tmp_path.joinpath("tree", *"abc"[:depth])
    folder.mkdir(parents=True)
    (folder / "round").symlink_to(tmp_path / "tree")
    with pytest.raises(ValueError, match=r"round is a link to a folder that holds it"):
        places.contents(tmp_path / "tree")


@pytest.mark.parametrize("name", ["cat", "1.png", "x/y"])
def test_a_broken_link_is_named(name, tmp_path):
    path = tmp_path / "tree" / name
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match=rf"{name} is a broken link"):
        places.contents(tmp_path / "tree")
    path.unlink()
    path.symlink_to(path)  # to itself
    with pytest.raises(ValueError, match=rf"{name} is a broken link"):
        places.contents(tmp_path / "tree")


AS_USER = (
    ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]
    if os.geteuid() == 0
    else []
)


def test_data_without_read_rights_are_one_sentence(three):
    """No other copy is taken instead: the reader would not know which."""
    names = ["mnist", "cifar10", "camvid", "monks-1", "vowel", "insects"]
    locked = []
    for case in ("root", "folder", "file"):
        for name in names:
            for root in (three[0] / case / name, three[1]):
                paths = [root / s[0] for s in places.PARTS.get(name, ((f"{name}/a/1.png",),))]
                for path in paths:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(b"")
                if root != three[1]:
                    locked += {"root": [root], "folder": {path.parent for path in paths}, "file": paths}[case]
    code = """
import os, sys
from lib import datasets
for case in ("root", "folder", "file"):
    for name in sys.argv[2:]:
        os.environ["SURVEY_DATA"] = f"{sys.argv[1]}/{case}/{name}"
        try:
            datasets.load(name)
        except Exception as error:
            print(type(error).__name__, error)
"""
    for path in locked:
        path.chmod(0)
    try:
        command = [*AS_USER, sys.executable, "-c", code, str(three[0]), *names]
        environment = os.environ | {"PYTHONPATH": str(Path(datasets.__file__).parents[2])}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    finally:
        for path in locked:
            path.chmod(0o755)
    said = done.stdout.splitlines()
    folders = [three[0] / case / name for case in ("root", "folder", "file") for name in names]
    assert len(said) == len(folders), done
    for line, folder in zip(said, folders, strict=True):
        assert line.startswith(f"FileNotFoundError {folder}") and "cannot be read: give this user the right" in line


def test_rights_that_are_missing_are_told_without_a_second_user(three, monkeypatch):
    def refuses(path: Path, **_: object):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", refuses)
    with pytest.raises(FileNotFoundError, match=r"named\S* cannot be read"):
        places.files("camvid")


# -- Downloads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behavior", [set(), {"ranges"}, {"no length"}])
def test_the_right_file_comes_whole_and_once(behavior, server, target, capfd):
    server.contents, server.behavior = {"/file": CONTENT}, behavior
    for _ in range(2):
        assert places.fetch(server.url("/file"), target, SHA256) == target
    assert target.read_bytes() == CONTENT and left(target) == ["file.bin"] and server.asked == [None]
    assert capfd.readouterr() == ("", "")  # a short download says nothing, and none writes to standard error


def test_without_a_checksum_the_caller_checks(server, target):
    server.contents = {"/file": CONTENT}
    assert places.fetch(server.url("/file"), target).read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", b"", CONTENT[:500] + b"x" + CONTENT[501:]])
def test_another_file_is_refused_and_not_kept(content, server, target):
    server.contents = {"/file": content}
    with pytest.raises(ValueError, match=r"/file is not the published file: its checksum is another"):
        places.fetch(server.url("/file"), target, SHA256)
    assert left(target) == []


def test_a_file_that_is_there_but_damaged_is_downloaded_again(server, target):
    server.contents = {"/file": CONTENT}
    target.parent.mkdir()
    target.write_bytes(CONTENT[:100])
    assert places.fetch(server.url("/file"), target, SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("length", [True, False])
def test_a_connection_that_breaks_is_made_again(ranges, length, server, target):
    server.contents = {"/file": CONTENT}
    server.behavior = {"cut once"} | ({"ranges"} if ranges else set()) | (set() if length else {"no length"})
    assert places.fetch(server.url("/file"), target, SHA256).read_bytes() == CONTENT
    assert len(server.asked) == 2 and server.asked[1].startswith("bytes=") and left(target) == ["file.bin"]


@pytest.mark.parametrize("length", [True, False])
def test_a_file_cut_each_time_is_an_error_and_its_part_stays(length, server, target):
    server.contents, server.behavior = {"/file": CONTENT}, {"cut"} | (set() if length else {"no length"})
    with pytest.raises(OSError, match=r"/file does not answer or breaks off: "):
        places.fetch(server.url("/file"), target, SHA256)
    assert left(target) == ["file.bin.part"] and len(server.asked) <= places.TRIES
    part = target.with_name("file.bin.part").read_bytes()
    assert part == CONTENT[: len(part)] and len(part) > 0


@pytest.mark.parametrize("got", [1, 50_000, len(CONTENT) - 1])
def test_an_interrupted_download_is_continued(got, server, target):
    server.contents, server.behavior = {"/file": CONTENT}, {"ranges"}
    target.parent.mkdir()
    target.with_name("file.bin.part").write_bytes(CONTENT[:got])
    assert places.fetch(server.url("/file"), target, SHA256).read_bytes() == CONTENT
    assert server.asked == [f"bytes={got}-"] and left(target) == ["file.bin"]


@pytest.mark.parametrize("behavior", [set(), {"ranges", "wrong range"}])
def test_where_it_cannot_be_continued_it_begins_again(behavior, server, target):
    server.contents, server.behavior = {"/file": CONTENT}, behavior
    target.parent.mkdir()
    target.with_name("file.bin.part").write_bytes(CONTENT[:500])
    assert places.fetch(server.url("/file"), target, SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize("part", [CONTENT, CONTENT + b"more", b"x" * 500, b"x" * len(CONTENT), b""])
def test_whatever_the_part_is_the_file_is_right(part, server, target):
    """A whole one, one that is too long, and parts of another file."""
    server.contents, server.behavior = {"/file": CONTENT}, {"ranges"}
    target.parent.mkdir()
    target.with_name("file.bin.part").write_bytes(part)
    assert places.fetch(server.url("/file"), target, SHA256).read_bytes() == CONTENT
    assert left(target) == ["file.bin"]


def test_a_download_that_is_killed_is_continued(server, target):
    server.contents, server.behavior = {"/file": CONTENT * 4}, {"ranges", "slow"}
    sha256 = f"sha256:{hashlib.sha256(CONTENT * 4).hexdigest()}"
    context = multiprocessing.get_context("fork")
    process = context.Process(target=places.fetch, args=(server.url("/file"), target, sha256))
    process.start()
    process.join(2.5)
    process.kill()
    process.join()
    assert not target.exists()
    got = target.with_name("file.bin.part").stat().st_size
    assert 0 < got < len(CONTENT) * 4
    server.behavior = {"ranges"}
    assert places.fetch(server.url("/file"), target, sha256).read_bytes() == CONTENT * 4
    assert server.asked[-1] == f"bytes={got}-"


def test_a_missing_file_is_one_sentence(server, target):
    with pytest.raises(OSError, match=r"/file answers 404 Not Found$"):
        places.fetch(server.url("/file"), target, SHA256)
    assert left(target) == []


@pytest.mark.parametrize(
    ("page", "behavior"),
    [
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", set()),
        (b"\n  <HTML>", set()),
        (b"<!doctype HTML>", {"no length"}),
        (b"Please sign in", {"html"}),
    ],
)
@pytest.mark.parametrize("known_hash", [SHA256, None])
def test_a_web_page_is_refused(page, behavior, known_hash, server, target):
    server.contents, server.behavior = {"/file": page}, behavior
    with pytest.raises(ValueError, match=r"/file sends a web page instead of the data"):
        places.fetch(server.url("/file"), target, known_hash)
    assert left(target) == []


def test_a_server_that_says_nothing_is_given_up(server, target, monkeypatch):
    monkeypatch.setattr(places, "SILENCE_S", 0.3)
    server.contents, server.behavior = {"/file": CONTENT}, {"dead"}
    with pytest.raises(OSError, match=r"/file does not answer or breaks off: .*timed out"):
        places.fetch(server.url("/file"), target, SHA256)
    assert len(server.asked) == 1 and left(target) == []


def test_a_server_that_is_not_there_is_one_sentence(target):
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/file"
    with pytest.raises(OSError, match=r"/file does not answer or breaks off: .*refused"):
        places.fetch(url, target, SHA256)


def test_a_server_that_is_far_too_slow_is_given_up(server, target, monkeypatch):
    monkeypatch.setattr(places, "SILENCE_S", 0.5)
    monkeypatch.setattr(places, "SLOWEST", 10**6)
    server.contents, server.behavior = {"/file": CONTENT}, {"slow", "ranges"}
    with pytest.raises(OSError, match=r"/file is too slow: less than 1000000 bytes a second"):
        places.fetch(server.url("/file"), target, SHA256)
    server.behavior = {"ranges"}  # what came is used
    assert places.fetch(server.url("/file"), target, SHA256).read_bytes() == CONTENT
    assert server.asked[-1].startswith("bytes=")


def test_a_long_download_reports_on_standard_output(server, target, monkeypatch, capfd):
    monkeypatch.setattr(places, "PROGRESS_S", 0.5)
    server.contents, server.behavior = {"/file": CONTENT}, {"slow"}
    places.fetch(server.url("/file"), target, SHA256)  # 25 pieces, 0.2 s each
    out, err = capfd.readouterr()
    assert err == "" and 2 <= out.count("downloading file.bin: 0 of 0 MB\n") == out.count("\n") <= 10


def test_the_next_address_is_tried(server, target):
    server.contents = {"/b": CONTENT}
    assert places.fetch([server.url("/a"), server.url("/b")], target, SHA256).read_bytes() == CONTENT
    with pytest.raises(OSError, match="/c answers 404"):
        places.fetch([server.url("/c"), server.url("/d")], target.with_name("other"), SHA256)


def test_a_full_disk_is_noticed_before_and_while_writing(server, target, monkeypatch):
    server.contents = {"/file": CONTENT}
    target.parent.mkdir()
    target.with_name("file.bin.part").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:
        places.fetch(server.url("/file"), target, SHA256)
    assert caught.value.errno == errno.ENOSPC and not target.exists()
    target.with_name("file.bin.part").unlink(missing_ok=True)
    usage = type("usage", (), {"free": 50_000})
    monkeypatch.setattr(places.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"/file needs 0 MB, .* has 0 MB"):
        places.fetch(server.url("/file"), target, SHA256)
    assert left(target) == []


# -- Sets that are missing ---------------------------------------------------------------------------------------------


def test_a_set_is_downloaded_to_the_checkout_and_found_the_next_time(three):
    asked = []

    def download(home: Path) -> None:
        asked.append(home)
        (home / "fsdd.zip").touch()

    (three[2].parent / "pyproject.toml").touch()
    for _ in range(2):
        assert places.obtain("spoken-digits", download) == [three[2] / "fsdd.zip"]
    assert asked == [three[2]] and not list(three[0].iterdir())  # the named folder is only read


def test_without_a_checkout_it_comes_to_the_working_folder(three):
    assert [path.resolve() for path in places.obtain("camvid", lambda home: (home / "camvid.zip").touch())] == [
        three[1] / "camvid.zip"
    ]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError("http://x answers 404 Not Found"), r"\(http://x answers 404 Not Found\)"),
        (ValueError("two\n lines."), r"\(two lines\)"),
        (PermissionError(errno.EACCES, "denied", "/some/where"), r"\(/some/where cannot be written\)"),
        (OSError(errno.ENOSPC, "No space left on device"), r"\(the disk is full: No space left on device\)"),
    ],
)
def test_an_error_is_one_sentence_that_says_where_to_put_the_set(error, message, three):
    def download(home: Path) -> None:
        raise error

    with pytest.raises(FileNotFoundError, match=message) as caught:
        places.obtain("vowel", download)
    said = str(caught.value)
    assert said.endswith(": put vowel/train.csv and vowel/test.csv into the folder that SURVEY_DATA names")
    assert str(three[0]) in said and "\n" not in said


def test_a_mistake_in_our_code_is_not_called_a_failed_download(three):
    with pytest.raises(KeyError):
        places.obtain("vowel", lambda home: {}["x"])


def slow_download(home: Path) -> None:
    with (home / "count").open("a") as file:
        file.write("x")
    for split in ("train", "test"):
        with places.whole(home / "vowel" / f"{split}.csv") as path:
            path.write_text(split)
            multiprocessing.Event().wait(0.5)


def test_two_processes_download_a_set_once(three):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=places.obtain, args=("vowel", slow_download)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert (three[1] / "count").read_text() == "x"


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    with pytest.raises(UnicodeEncodeError), places.whole(tmp_path / "a" / "b") as path:
        path.open("w", encoding="ascii", buffering=1).writelines(["half\n", "ü"])
    assert list((tmp_path / "a").iterdir()) == []
    (tmp_path / "a" / "b").write_text("old")
    with places.whole(tmp_path / "a" / "b") as path:
        path.write_text("new")
        assert (tmp_path / "a" / "b").read_text() == "old"
    assert (tmp_path / "a" / "b").read_text() == "new" and len(list((tmp_path / "a").iterdir())) == 1
