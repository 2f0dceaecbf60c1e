"""The doctor's kept verdict: for this processor, these versions, settings and code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lib.__main__ import main
from lib.book import doctor, processor

LIB = Path(__file__).parents[2] / "lib"


def test_processor_and_versions_are_named():
    text = doctor.machine()
    assert text.startswith(processor.name())
    assert torch.__version__ in text and torch.backends.cpu.get_cpu_capability() in text and "numba" in text


# -- the kept verdict --------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch):
    calls = []

    def checks():
        calls.append(1)
        return [doctor.Check("sums", "off by 2"), doctor.Check("bits")]

    monkeypatch.setattr(doctor, "checks", checks)
    return calls


def test_a_verdict_is_kept_for_this_processor_and_tried_again_if_asked(counted, tmp_path, capsys):
    assert [doctor.main(tmp_path) for _ in range(3)] == [1, 1, 1] and len(counted) == 1
    one, two, three = capsys.readouterr().out.split("\n\n")[0].split(doctor.machine())[1:]
    assert one == two == three and "WRONG              sums: off by 2" in one
    assert doctor.main(tmp_path, fresh=True) == 1 and len(counted) == 2
    assert [path.parent.name for path in tmp_path.rglob("*.json")] == ["doctor"] and not list(
        tmp_path.rglob("*.partial")
    )


def test_the_command_tries_again_if_asked(counted, tmp_path, capsys):
    words = ["--root", str(tmp_path), "doctor"]
    assert main(words) == main(words) == 1 and len(counted) == 1
    assert main([*words, "--fresh"]) == 1 and len(counted) == 2


@pytest.mark.parametrize("name", ["ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "NUMBA_CPU_NAME", "OMP_NUM_THREADS"])
def test_other_settings_have_a_verdict_of_their_own(counted, tmp_path, monkeypatch, name):
    doctor.main(tmp_path)
    monkeypatch.setenv(name, "another")
    doctor.main(tmp_path)
    assert len(counted) == 2


def test_another_version_or_other_code_has_a_verdict_of_its_own(counted, tmp_path, monkeypatch):
    doctor.main(tmp_path)
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "0")
    doctor.main(tmp_path)
    files = doctor.sources()
    monkeypatch.setattr(doctor, "sources", lambda: files[1:])
    doctor.main(tmp_path)
    assert len(counted) == 3


def test_the_code_that_is_tried_is_all_that_the_trials_import():
    names = {path.relative_to(LIB).as_posix() for path in doctor.sources()}
    assert {"book/doctor.py", "running.py", "quantization/shared/torch_kernels.py"} <= names
    assert {"binarization/shared/kernels.py", "binarization/shared/vector.py"} <= names
    assert "training.py" not in names


def test_a_kept_verdict_is_found_without_loading_torch():
    script = "import sys; from lib.book import doctor; doctor._key(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=LIB.parent)
    assert done.stdout == "False\n", done.stderr


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"processor": "x"}', '{"processor": "x", "checks": [{"a": 1}]}'])
def test_a_damaged_verdict_is_found_anew(counted, tmp_path, damage):
    doctor.main(tmp_path)
    (path,) = tmp_path.rglob("*.json")
    whole = path.read_text()
    path.write_text(damage)
    assert doctor.main(tmp_path) == 1
    assert len(counted) == 2 and path.read_text() == whole and json.loads(whole)["checks"]


def test_a_folder_that_cannot_be_written_to_is_no_obstacle(counted, tmp_path):
    (tmp_path / "_build").write_text("a file")
    assert doctor.main(tmp_path) == 1 and doctor.main(tmp_path) == 1 and len(counted) == 2
