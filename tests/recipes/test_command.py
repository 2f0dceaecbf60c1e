"""The command: files that hold what it says, and one sentence for what it does not accept."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from lib import storage
from lib.__main__ import main
from lib.recipes.methods import METHODS

OWN = """
from torch import nn
def build():
    first, second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 32, 3)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(4608, 2))
def other():
    return "no network"
def three():
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
def needs(width):
    return nn.Linear(width, 2)
"""


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of images in two classes, and a network of one's own beside it."""
    generator = torch.Generator().manual_seed(0)
    for name, shade in (("bright", 200), ("dark", 20)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(24):
            pixels = (torch.rand(20, 18, 3, generator=generator) * 50 + shade).byte().numpy()
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    (tmp_path / "own_network.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


def shrink(photos, *words):
    options = ["--model", "own_network:build", "--data", str(photos), "--size", "16", "--epochs", "1"]
    return main(["shrink", *options, *words])


@pytest.mark.parametrize("method", METHODS)
def test_own_network_and_own_images_give_all_files(method, photos, tmp_path, capsys):
    assert (
        shrink(
            photos, "--train", "2", "--method", method, "--amount", {"factors": "0.5", "int8": "99"}.get(method, "0.6")
        )
        == 0
    )
    said, out = capsys.readouterr().out, tmp_path / "shrunk"
    assert {file.name for file in out.iterdir()} >= {
        "network.slim",
        "network.onnx",
        "report.md",
        "costs.json",
        "costs.svg",
    }
    assert (out / "trained.safetensors").exists()
    costs = json.loads((out / "costs.json").read_text())["costs"]
    assert (out / "network.slim").stat().st_size == costs["shrunk"]["file_bytes"] < costs["as given"]["file_bytes"]
    assert "The file is" in said and "shrunk/network.onnx" in said
    assert "own_network:build on photos" in (out / "report.md").read_text().splitlines()[0]


def test_no_file_for_other_runtimes_where_none_is_wanted(photos, tmp_path, capsys):
    assert shrink(photos, "--method", "rounded", "--amount", "8", "--no-onnx") == 0
    assert (tmp_path / "shrunk" / "network.slim").exists() and not (tmp_path / "shrunk" / "network.onnx").exists()
    assert "onnx" not in capsys.readouterr().out


def test_trained_weights_are_read_and_the_file_gives_them_back(photos, tmp_path):
    import own_network

    model = own_network.build()
    save_file(model.state_dict(), tmp_path / "mine.safetensors")
    assert shrink(photos, "--weights", "mine.safetensors", "--method", "rounded", "--amount", "8") == 0
    again = storage.load(tmp_path / "shrunk" / "network.slim", own_network.build())
    assert (again[0].weight - model[0].weight).abs().max() < 0.02


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--method", "rounded", "--model", "resnet_none"], "model must be module:function, or a classifier"),
        (["--method", "rounded", "--model", "own_network:missing"], "own_network:missing cannot be made"),
        (["--method", "rounded", "--model", "own_network:other"], "own_network:other gives str"),
        (["--method", "rounded", "--model", "own_network:three"], "own_network:three has 3 outputs, and photos has 2"),
        (["--method", "rounded", "--model", "own_network:needs"], "own_network:needs cannot be made"),
        (["--method", "rounded", "--data", "nowhere"], "nowhere"),
        (["--method", "rounded", "--data", "photos/bright"], "photos/bright"),
        (["--method", "rounded", "--out", "mine.pt"], "--out mine.pt is a file: a folder is needed"),
        (["--method", "rounded", "--size", "32"], "does not take"),
        (["--method", "filters", "--amount", "7"], "amount of filters, the share of the multiply-adds left, must be"),
        (["--method", "filters", "--epochs", "-2"], "epochs must be a whole number of 0 or more, not -2"),
        (["--method", "rounded", "--weights", "mine.pt"], "weights must be a .safetensors file"),
        (["--method", "rounded", "--weights", "none.safetensors"], "none.safetensors"),
        (["--method", "rounded", "--weights", "bad.safetensors"], "is damaged, or no safetensors file"),
        (["--method", "rounded", "--weights", "other.safetensors"], "holds the weights of another network"),
    ],
)
def test_what_is_not_accepted_is_one_sentence(words, says, photos, tmp_path, capsys):
    (tmp_path / "mine.pt").write_bytes(b"pickled")
    (tmp_path / "bad.safetensors").write_bytes(b"no header at all")
    save_file(nn.Linear(2, 2).state_dict(), tmp_path / "other.safetensors")
    assert shrink(photos, *words) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ") and says in said
    assert not (tmp_path / "shrunk").exists()


def test_help_names_every_method(capsys):
    with pytest.raises(SystemExit):
        main(["shrink", "--help"])
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in METHODS)


def test_weights_need_the_images_they_were_trained_for(tmp_path, capsys):
    assert main(["shrink", "--weights", str(tmp_path / "mine.safetensors"), "--method", "rounded"]) == 1
    assert "--weights needs --data" in capsys.readouterr().err
