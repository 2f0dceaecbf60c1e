"""Text files that are whole or not there."""

import os
from pathlib import Path


def write(path: Path, text: str) -> None:
    """Write all of the text or nothing: to a temporary file beside ``path``, which is then renamed.

    path: where; folders on the way are made.
    text: the content, written as UTF-8.
    Raises OSError and UnicodeEncodeError; what was at ``path`` before is then still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, "utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
