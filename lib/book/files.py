"""Write a text file completely or not at all."""

import os
from pathlib import Path


def write(path: Path, text: str) -> None:
    """Write all of the text or nothing: to a temporary file beside ``path``, which is then renamed.

    path: the file; missing folders are made.
    text: the content, written as UTF-8.
    Raises OSError and UnicodeEncodeError; an older file at ``path`` is then unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, "utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
