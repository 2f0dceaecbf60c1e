"""Where data sets lie."""

import os
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


def roots() -> list[Path]:
    named = os.environ.get("SURVEY_DATA")
    return [*([Path(named)] if named else []), Path("data"), CHECKOUT / "data"]
