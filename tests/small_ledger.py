"""A small ledger for tests: a claim, a record, and a book that holds them."""

import json
from pathlib import Path

import yaml

K, OTHER = "pruning.net.error_pct", "pruning.net.baseline_error_pct"
BYTES, LATENCY = "pruning.net.file_bytes", "pruning.net.latency_ms"
TWO = [{"key": K, "at_most": 2}, {"key": BYTES, "at_most": 100}]
BIB = "@article{known2020,\n  title = {A}\n}\n"


def claim(**changes: object) -> dict:
    """A right claim as it is written in the ledger; a field that is changed to None is left out."""
    made = {
        "id": "C2.3-01",
        "section": "2.3",
        "says": "Pruning helps.",
        "decided_by": {"quick": [{"key": K, "at_most": 2}]},
        "verdict": "supported",
    }
    return {name: value for name, value in (made | changes).items() if value is not None}


def record(*values: float, unit: str = "%", **flags: bool) -> dict:
    """What a run records under one key; ``flags`` are exact and timing."""
    return {"values": list(values), "unit": unit, "digits": 2, **flags}


def write_ledger(root: Path, claims: list, results: dict[str, dict] | None = None) -> Path:
    """The root of a book with these claims, and with these results as committed and as built."""
    (root / "survey" / "claims").mkdir(parents=True, exist_ok=True)
    (root / "survey" / "references.bib").write_text(BIB)
    (root / "survey" / "claims" / "pruning.yml").write_text(yaml.safe_dump(claims))
    for profile, records in (results or {}).items():
        for folder in (root / "results", root / "_build" / "results"):
            path = folder / profile / "pruning.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"chapter": "pruning", "profile": profile, "data": [], "records": records}))
    return root
