"""What a run leaves in its folder; what a whole run of the command leaves is in test_command.py."""

import json

import pytest
import torch
from torch import nn

from lib import datasets
from lib.recipes import results
from lib.recipes.following import follow


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits", first=(64, 16, 32))


@pytest.fixture(scope="module")
def result(digits):
    torch.manual_seed(0)
    return follow(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), digits, method="rounded", epochs=0)


def test_lines_and_record_say_what_was_measured(result, digits, tmp_path):
    lines = results.write(result, digits, tmp_path / "new", title="Mine", onnx=False)
    record = json.loads((tmp_path / "new" / "costs.json").read_text())
    assert record["method"] == "rounded" and record["input"] == [1, 28, 28]
    assert {name: costs["file_bytes"] for name, costs in record["costs"].items()} == {
        name: costs.file_bytes for name, costs in result.costs.items()
    }
    size = (tmp_path / "new" / "network.slim").stat().st_size
    assert any(f"network.slim  {size:,} bytes" in line for line in lines)
    assert (tmp_path / "new" / "report.md").read_text().startswith("# Mine\n")


def test_a_file_of_an_earlier_run_does_not_stay(result, digits, tmp_path, monkeypatch):
    (tmp_path / "network.onnx").write_text("old")
    monkeypatch.setattr(results, "export", lambda *_: (_ for _ in ()).throw(ValueError("no")))
    results.write(result, digits, tmp_path, title="Mine")
    assert not (tmp_path / "network.onnx").exists()
    assert "not written: no" in (tmp_path / "report.md").read_text()
