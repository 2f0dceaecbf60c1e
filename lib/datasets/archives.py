"""The files of a folder or of a zip, by name; nothing is unpacked to disk."""

import contextlib
import hashlib
import os
import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lib.datasets import places


@dataclass(frozen=True)
class Archive:
    """A folder or a zip.

    names: of its files, sorted, with "/" between folders, without what file managers leave behind (``.DS_Store``,
        ``__MACOSX/``).
    read: name -> the file's bytes. ValueError, which names the file, if it is damaged.
    open: name -> the file, open for reading, if only its beginning is needed.
    """

    names: tuple[str, ...]
    read: Callable[[str], bytes]
    open: Callable[[str], IO[bytes]]


def opened(path: Path) -> Archive:
    """Open a folder (links are followed) or a zip.

    path: of the folder or zip.

    Raises ValueError for a damaged zip, for a link that is broken or leads to a folder that holds it, and for names in
    a zip that lead out of it, are links or occur twice.
    """
    return _zip(path) if path.is_file() else _folder(path)


def digest(names: Iterable[str], read: Callable[[str], bytes]) -> str:
    """Return the SHA-256 of files' names and contents, since two zips of the same files may differ in their bytes.

    names: of the files, in any order.
    read: name -> content.
    """
    total = hashlib.sha256()
    for name in sorted(names):
        total.update(f"{name}\0{hashlib.sha256(read(name)).hexdigest()}\n".encode())
    return total.hexdigest()


def write(path: Path, files: Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> None:
    """Write a zip of the files, completely or not at all; the same files give the same bytes.

    path: where to write.
    files: pairs of name and content.
    method: ``zipfile.ZIP_STORED`` (default) or another of zipfile's methods.
    """
    with places.whole(path) as temporary, zipfile.ZipFile(temporary, "w", method) as archive:
        for name, content in files:
            archive.writestr(zipfile.ZipInfo(name), content, method)


def _folder(path: Path) -> Archive:
    found = {unicodedata.normalize("NFC", name): file for name, file in places.contents(path).items()}
    return Archive(_visible(found), lambda name: found[name].read_bytes(), lambda name: found[name].open("rb"))


def _zip(path: Path) -> Archive:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError) as error:  # the second: a damaged version or method field
        raise ValueError(f"{path} is damaged or not a zip: accepted are an image folder and a zip of one") from error
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = _name(entry)
        if name.startswith("/") or ".." in name.split("/") or re.match("[A-Za-z]:", name):
            raise ValueError(f"{path} holds {entry.filename!r}: accepted are names that stay inside the zip")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise ValueError(f"{path} holds the link {name}: accepted is a zip of the files themselves")
        if name.endswith("/"):
            continue
        if name in found:
            raise ValueError(f"{path} holds {name} twice")
        found[name] = entry

    def read(name: str) -> bytes:
        entry = found[name]
        try:
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:  # bit 0: encrypted
                return archive.read(entry)
            # The stored bytes, after a header of 30 bytes, a name and an extra field: five times as fast as zipfile.
            file = archive.fp
            if file is None:
                raise ValueError("it was closed")
            file.seek(entry.header_offset + 26)
            file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
            content = file.read(entry.file_size)
            if zlib.crc32(content) != entry.CRC:
                raise ValueError("its checksum is wrong")
            return content
        except Exception as error:  # zipfile and zlib raise many kinds
            raise ValueError(f"{name} in {path} is damaged or locked: {error}") from error

    return Archive(_visible(found), read, lambda name: archive.open(found[name]))


def _name(entry: zipfile.ZipInfo) -> str:
    """The entry's name as its author meant it: some tools write backslashes, or UTF-8 without declaring it."""
    name = entry.filename
    if not entry.flag_bits & 0x800:  # bit 11: the name is UTF-8; otherwise zipfile has read it as code page 437
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return re.sub(r"(^|/)(\./)+", r"\1", unicodedata.normalize("NFC", name.replace("\\", "/")))


def _visible(found: Mapping[str, object]) -> tuple[str, ...]:
    """The names without what file managers leave behind: ``__MACOSX/``, ``.DS_Store``, ``._image.png``."""
    return tuple(sorted(name for name in found if not re.search(r"(?:^|/)(?:\.|__MACOSX(?:/|$))", name)))
