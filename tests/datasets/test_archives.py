"""A folder and a zip of it are one set of files; a name that is not one is refused before anything is read."""

import zipfile

import pytest

from lib.datasets import archives

FILES = {"a/one.txt": b"1", "a/b/two.txt": b"22", "three.txt": b""}


def test_a_folder_and_its_zip_hold_the_same_files(tmp_path):
    for name, content in FILES.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(content)
    (tmp_path / "tree" / ".DS_Store").write_bytes(b"left by a file manager")
    archives.write(tmp_path / "tree.zip", FILES.items())
    tree, packed = archives.opened(tmp_path / "tree"), archives.opened(tmp_path / "tree.zip")
    assert tree.names == packed.names == tuple(sorted(FILES))
    assert {name: tree.read(name) for name in FILES} == {name: packed.read(name) for name in FILES} == FILES
    assert archives.digest(FILES, tree.read) == archives.digest(reversed(FILES), packed.read)


def test_a_digest_sees_every_name_and_byte():
    seen = {archives.digest(files, files.__getitem__) for files in ({"a": b"1"}, {"a": b"2"}, {"b": b"1"}, {})}
    assert len(seen) == 4


def test_the_same_files_give_the_same_zip(tmp_path):
    for name in ("one.zip", "two.zip"):
        archives.write(tmp_path / name, FILES.items(), zipfile.ZIP_DEFLATED)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


@pytest.mark.parametrize("name", ["../out.txt", "/etc/out.txt", "a/../../out.txt", "C:/out.txt"])
def test_a_name_that_leads_out_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(ValueError, match="accepted are names that stay inside the zip"):
        archives.opened(tmp_path / "bad.zip")


def test_a_damaged_file_is_named(tmp_path):
    archives.write(tmp_path / "one.zip", [("a.txt", b"content")])
    content = (tmp_path / "one.zip").read_bytes()
    (tmp_path / "one.zip").write_bytes(content.replace(b"content", b"c0ntent", 1))
    with pytest.raises(ValueError, match=r"a\.txt in .*one\.zip is damaged or locked: its checksum is wrong"):
        archives.opened(tmp_path / "one.zip").read("a.txt")
