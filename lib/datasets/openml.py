"""Tables from OpenML, through scikit-learn."""

import socket
import tempfile
import warnings
from collections.abc import Sequence

SILENCE_S = 30.0  # how long a server may be silent; scikit-learn sets no limit


def table(number: int, columns: Sequence[str]) -> list[list[str]]:
    """Return the rows of an OpenML data set as text without quotes, with the named columns in their order.

    number: of the data set on openml.org, which identifies one version of it.
    columns: names of the columns.

    Raises ValueError if a column is missing, OSError if the server does not answer.
    """
    from sklearn.datasets import fetch_openml

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_S)
    try:
        # A folder of its own: the usual one is in the user's home, which may not be writable.
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they go to stderr, where a chapter must write nothing
            frame = fetch_openml(data_id=number, as_frame=True, data_home=folder, parser="liac-arff").frame
    finally:
        socket.setdefaulttimeout(before)
    if missing := [name for name in columns if name not in frame.columns]:
        raise ValueError(
            f"set {number} of openml.org has the columns {', '.join(map(str, frame.columns))}, not {', '.join(missing)}"
        )
    return [[str(value).strip("'\" ") for value in row] for row in frame[list(columns)].itertuples(index=False)]
