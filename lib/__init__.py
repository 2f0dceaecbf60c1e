"""Every technique of the survey, one file each, on a small shared foundation.

Techniques, in one folder per section of the survey; ``shared/`` holds what several of them use:

distillation/    train a small network with the answers of a large one (section 2.1)
hashing/         share weights, find neighbors and select nodes by hash functions (section 2.2)
pruning/         remove weights, filters and channels (section 2.3)
factorization/   replace one large layer by several small ones (section 2.3)
quantization/    store weights in few bits, compute with small integers (section 2.4)
precision/       train and run networks with numbers of few bits (section 2.5)
binarization/    weights and activations of one bit or three values (section 2.6)
architectures/   networks that are small or fast by design (section 3.1)
self_organization/   maps and gases that find the shape of data, and grow (sections 3.2 and 3.2.1)
neuroevolution/  networks whose structure and weights evolve (section 3.2.2)
morphism/        trained networks that get larger and keep what they compute (section 3.2.3)
supergraphs/     one network that holds all candidates, and searches in it (section 3.2.4)

The foundation, on which all of them build:

models.py        the baseline networks that chapters compress
datasets/        training, validation and test tensors by name
training.py      the one training loop, and the error of a trained network
cache.py         trained networks, stored under everything that their training depends on
segmentation.py  images with a class for every pixel: loss, class weights, agreement
seeding.py       random initial weights from their own seed
arguments.py     checks that sizes are whole numbers and not too small, and that names are on a list
running.py       a network's outputs, what flows through it, its modes, its memory layout
weights.py       compressed weights: how a technique stores a layer's weight
owners.py        layers whose owner reads their weight instead of calling them
storage.py       a model to a compressed file and back, bit for bit
exporting.py     a network as an ONNX file, which other runtimes read
coding/          the coders that the files are written with
structure/       from scores of filters to masks, and from masks to a physically smaller network
search/          searches with one signature, a space where the truth is known, a table of latencies
measure.py       parameters, bytes, multiply-adds, latency
activations.py   the peak memory of the activations in a forward pass
operations.py    multiply-adds of a forward pass, by the module that runs them
imports.py       which files of lib a result depends on
vision.py        torchvision, which here works with a CPU-only torch, too

Techniques of several sections put together:

recipes/         making a network of your own smaller with one command

What a chapter puts on its page, and the book:

evidence.py      measurements for the text and for the record
figures/         figures, tables and shown code in one style
book/            from sources to pages; no chapter and no technique imports it
__main__.py      the command line: python -m lib
"""

import os
import stat
import sys
import tempfile
from pathlib import Path

_private: tempfile.TemporaryDirectory | None = None  # removed when the process ends


def _find_place_for_compiled_code() -> None:
    """Give numba a private temporary folder if it can write neither beside ``lib`` nor in the home folder.

    Without one, ``import lib.storage`` raises. The user's next process finds the compiled code there.
    """
    if os.environ.get("NUMBA_CACHE_DIR") or _writable(_home_cache()) or _writable_beside_the_source():
        return
    try:
        place = _temporary_folder()
    except OSError:
        return  # not even a temporary file can be written: numba will name the function that it cannot cache
    os.environ["NUMBA_CACHE_DIR"] = place
    if "numba" in sys.modules:  # it has read the environment already
        sys.modules["numba"].config.CACHE_DIR = place


def _home_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "numba")


def _writable_beside_the_source() -> bool:
    return all(
        _writable(path / "__pycache__") for path in {path.parent for path in Path(__file__).parent.rglob("*.py")}
    )


def _writable(folder: Path) -> bool:
    """Whether files can be written to the folder, which may not exist yet."""
    if not folder.is_absolute():
        return False  # an unknown home stays "~", which does not mean a folder of that name
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _temporary_folder() -> str:
    """A folder to which nobody else can write, since numba runs what it finds there."""
    global _private
    user = getattr(os, "getuid", int)()
    place = Path(tempfile.gettempdir(), f"survey-numba-{user}")
    if not os.path.lexists(place):
        place.mkdir(mode=0o700, exist_ok=True)
    about = place.lstat()
    if stat.S_ISDIR(about.st_mode) and about.st_uid == user and not about.st_mode & 0o077 and _writable(place):
        return str(place)
    _private = tempfile.TemporaryDirectory(prefix="survey-numba-")
    return _private.name


_find_place_for_compiled_code()
