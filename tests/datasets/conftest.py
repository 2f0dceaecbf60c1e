"""A machine without data and without network."""

import pytest

from lib.datasets import places
from lib.vision import torchvision


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """An empty data root, an empty working folder, and no network."""

    def fails(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setenv("SURVEY_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision.datasets, "MNIST", fails)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", fails)
    monkeypatch.setattr(places, "roots", lambda: [tmp_path])
    return tmp_path
