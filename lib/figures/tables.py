"""One style for every table."""

import hashlib
import re
from collections.abc import Mapping, Sequence

import pandas as pd
from IPython.display import HTML, display

from lib.evidence import unbroken

NUMBER = r"[−+-]?\d[\d,.]*(?:e[+-]?\d+)?"
SPREAD = rf"(?: ± {NUMBER}| and {NUMBER}| \({NUMBER} to {NUMBER}\))"  # as lib.evidence writes it
NUMERIC = re.compile(rf"{NUMBER}{SPREAD}?(?: ?(?:%|×|points|bytes|ms|µs|s))?|[–—-]?|nan|None")


def table(rows: Sequence[Mapping[str, object]], *, caption: str) -> None:
    """Show a table, with numbers aligned to the right; a column that is the same in every row moves to the caption.

    rows: column -> text, or a number that is shown as it is.
    caption: shown with the table.
    """
    frame = pd.DataFrame(rows, dtype=object)  # numbers stay as they are; otherwise 3 beside 2.5 or None becomes 3.0
    same = [column for column in frame.columns[1:] if len(frame) > 1 and frame[column].map(str).nunique() == 1]
    if same and len(same) < len(frame.columns) - 1:  # at least one column besides the first stays
        caption = f"{caption} ({'; '.join(f'{column}: {frame[column][0]}' for column in same)} in every row)"
        frame = frame.drop(columns=same)
    numeric = [
        column
        for column in frame
        if all(NUMERIC.fullmatch(str(value).replace("\N{NO-BREAK SPACE}", " ").strip()) for value in frame[column])
    ]
    styles = {column: [{"selector": "th, td", "props": "text-align: right"}] for column in numeric}
    uuid = hashlib.blake2b(caption.encode(), digest_size=4).hexdigest()  # pandas would draw one: another page each time
    styler = (
        frame.style.set_uuid(uuid)
        .hide(axis="index")
        .format(lambda value: unbroken(str(value)))  # pandas would write floats with six digits
        .set_caption(caption)
        .set_table_styles(styles)
        .set_table_attributes('class="dataframe table-scroll"')
    )
    display(HTML(f'<div class="table-wrap">{styler.to_html()}</div>'))
