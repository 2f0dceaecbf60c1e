"""Read the files of the ledger: the survey's claims, the catalogue of techniques, and what runs measured."""

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from lib.book import claims, last_run
from lib.book.claims import Claim
from lib.evidence import formatted

Records = dict[str, dict[str, Any]]  # key -> {"values": [...], "unit": ..., "digits": ...}
ROW = {"id", "name", "section", "idea", "source", "file", "test", "chapter", "anchor", "claims"}
OPTIONAL = {"contract", "zoo"}  # a kind of technique and a call: tests/test_contracts.py, lib/book/zoo


def load_claims(root: Path) -> list[Claim]:
    """Return every claim of ``survey/claims/*.yml`` of the book at ``root``.

    Raises ValueError with one sentence for a claim that is wrong (:mod:`lib.book.claims` has the form), for an id that
    occurs twice, and if there is no claim at all.
    """
    known = bibliography_keys(root)
    ledger: list[Claim] = []
    for path in sorted((root / "survey" / "claims").glob("*.yml")):
        ledger += [claims.parsed(entry, path.stem, known) for entry in _list(path, "claims")]
    if not ledger:
        raise ValueError(f"there is no claim in {root.name}/survey/claims: at least one file with one claim is needed")
    if twice := [id for id, n in Counter(claim.id for claim in ledger).items() if n > 1]:
        raise ValueError(f"the claim id {twice[0]} is in the ledger twice: each id belongs to one claim")
    return ledger


def load_results(profile: str, root: Path, *, built: bool = False) -> Records:
    """Return every record of a profile by its key; none if that profile was never run.

    profile: quick, standard, full or fashion.
    root: the book's folder.
    built: read those of the last build; by default the committed ones.
    Raises ValueError for an unknown profile, a damaged file, and a key that two chapters record.
    """
    known = (*claims.PROFILES, claims.SECOND)
    if profile not in known:
        raise ValueError(f"profile must be one of {', '.join(known)}, not {profile!r}")
    records: Records = {}
    for path in result_files(profile, root, built=built):
        for key, record in load_result(path)["records"].items():
            if key in records:
                raise ValueError(
                    f"the key {key!r} is recorded twice in the {profile} profile: each key belongs to one chapter"
                )
            records[key] = record
    return records


def result_files(profile: str, root: Path, *, built: bool = False) -> list[Path]:
    """Return the result files of a profile, one for each chapter, sorted.

    profile: a profile's name.
    root: the book's folder.
    built: return those of the last build; by default the committed ones.
    """
    folder = last_run.built_results(root, profile) if built else last_run.committed_results(root, profile)
    return sorted(folder.glob("*.json"))


def load_result(path: Path) -> dict[str, Any]:
    """Return one chapter's results. Raises ValueError if the file is not what a run of a chapter writes."""
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for record in result["records"].values():
            if not record["values"] or not all(math.isfinite(value) for value in record["values"]):
                raise ValueError("a record without finite values")
            formatted(record["values"], unit=record["unit"], digits=record["digits"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path.name} of the {path.parent.name} profile is damaged ({error}): run its chapter again"
        ) from error
    return result


def bibliography_keys(root: Path) -> set[str]:
    """Return the keys of ``survey/references.bib``; none where there is no such file."""
    path = root / "survey" / "references.bib"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return set(re.findall(r"^\s*@\w+\s*\{\s*([^,\s]+)", text, re.M))


def techniques_as_written(root: Path) -> list[Any]:
    """Return the rows of ``survey/techniques.yml`` of the book at ``root``, unchecked.

    Raises ValueError with one sentence for a file that is not a YAML list.
    """
    return _list(root / "survey" / "techniques.yml", "techniques")


def load_techniques(root: Path) -> list[dict[str, Any]]:
    """Return the catalogue, ``survey/techniques.yml``: one row for each technique.

    Raises ValueError for a row with missing or unknown fields, for an unknown source, claim or section, and for a
    technique that occurs twice.
    """
    catalogue: list[dict[str, Any]] = techniques_as_written(root)
    known, ids_of_claims = bibliography_keys(root), {claim.id for claim in load_claims(root)}
    for row in catalogue:
        where = f"the technique {row.get('id')!r}"
        if set(row) - OPTIONAL != ROW:
            raise ValueError(f"{where} must have the fields {', '.join(sorted(ROW))}, not {', '.join(sorted(row))}")
        for key in row["source"]:
            if key not in known:
                raise ValueError(f"{where} cites {key!r}, which is not in survey/references.bib")
        for id in row["claims"]:
            if id not in ids_of_claims:
                raise ValueError(f"{where} names the claim {id!r}, which is not in survey/claims")
    if twice := [id for id, n in Counter(row["id"] for row in catalogue).items() if n > 1]:
        raise ValueError(f"the technique {twice[0]!r} is in the catalogue twice: each has one row")
    for section in {row["section"] for row in catalogue}:
        if section not in claims.SECTIONS:
            accepted = ", ".join(claims.SECTIONS)
            raise ValueError(f"a section of the catalogue must be one of {accepted}, not {section!r}")
    return catalogue


def _list(path: Path, of: str) -> list[Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name} is not readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, list):
        raise ValueError(f"{path.name} must hold a list of {of}, not a {type(content).__name__}")
    return content
