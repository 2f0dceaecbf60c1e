"""Tables from OpenML: columns by name, nothing on standard error, nothing in the home folder."""

import hashlib
import json
import socket
import warnings
from types import SimpleNamespace

import pandas
import pytest
import sklearn.datasets

from lib.datasets import openml

FRAME = pandas.DataFrame({"b": ["'x y'", "z"], "a": [1.0, 2.5], "c": pandas.Categorical(["1", "2"])})


def test_columns_come_by_name_as_text(monkeypatch, capfd, tmp_path):
    asked = {}

    def fetch(**options):
        asked.update(options, timeout=socket.getdefaulttimeout())
        warnings.warn("trying again", stacklevel=1)
        return SimpleNamespace(frame=FRAME)

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)
    assert openml.table(307, ["a", "b", "c"]) == [["1.0", "x y", "1"], ["2.5", "z", "2"]]
    assert asked["data_id"] == 307 and asked["timeout"] == openml.SILENCE_S and socket.getdefaulttimeout() is None
    assert asked["data_home"] and capfd.readouterr() == ("", "")
    with pytest.raises(ValueError, match=r"set 307 of openml\.org has the columns b, a, c, not d, e"):
        openml.table(307, ["a", "d", "e"])


def test_the_limit_is_lifted_after_an_error(monkeypatch):
    def fails(**_):
        raise OSError("no network")

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fails)
    with pytest.raises(OSError, match="no network"):
        openml.table(333, ["class"])
    assert socket.getdefaulttimeout() is None


ARFF = """@relation monks
@attribute attr1 {1,2,3}
@attribute weight numeric
@attribute class {'0','h I d'}
@data
1,0.5,'h I d'
3,-0.25,0
"""
FEATURES = [("attr1", "nominal", ["1", "2", "3"]), ("weight", "numeric", []), ("class", "nominal", ["0", "h I d"])]


def test_scikit_learn_reads_what_the_service_sends(server, monkeypatch, capfd, tmp_path):
    """The real function, against a server that answers as openml.org does."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for kind in ("_DATA_INFO", "_DATA_FEATURES", "_DATA_QUALITIES"):
        monkeypatch.setattr(sklearn.datasets._openml, kind, server.url(f"/{kind}/{{}}"))
    about = {"id": "333", "name": "monks", "version": "1", "status": "active", "format": "ARFF", "file_id": "5"}
    about |= {"url": server.url("/data/v1/download/5/monks.arff"), "default_target_attribute": "class"}
    about |= {"md5_checksum": hashlib.md5(ARFF.encode()).hexdigest(), "description": "x"}
    flags = {"is_target": "false", "is_ignore": "false", "is_row_identifier": "false", "number_of_missing_values": "0"}
    features = [
        flags | {"index": str(i), "name": name, "data_type": kind, "nominal_value": values}
        for i, (name, kind, values) in enumerate(FEATURES)
    ]
    answers = {
        "_DATA_INFO": {"data_set_description": about},
        "_DATA_FEATURES": {"data_features": {"feature": features}},
    }
    answers["_DATA_QUALITIES"] = {"data_qualities": {"quality": [{"name": "NumberOfInstances", "value": "2"}]}}
    server.contents = {f"/{kind}/333": json.dumps(answer).encode() for kind, answer in answers.items()}
    server.contents["/data/v1/download/5/monks.arff"] = ARFF.encode()
    rows = openml.table(333, ["class", "attr1", "weight"])
    assert rows == [["h I d", "1", "0.5"], ["0", "3", "-0.25"]]
    assert capfd.readouterr() == ("", "") and not (tmp_path / "home").exists()
    server.contents["/data/v1/download/5/monks.arff"] = ARFF.replace("0.5", "0.6").encode()
    with pytest.raises(ValueError, match="md5"):
        openml.table(333, ["class"])
