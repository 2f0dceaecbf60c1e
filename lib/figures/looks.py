"""One look for each technique and treatment: the same color, marker and line in every chapter."""

from typing import Any

# The colors are Okabe and Ito's, which color-blind readers can tell apart; markers and lines differ as well. What the
# survey or a paper reports is always a hollow black marker.
GRAY, BLUE, SKY, GREEN, ORANGE, RED, PINK = "#6b6b6b", "#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#cc79a7"


def _look(color: str, marker: str, linestyle: str) -> dict[str, Any]:
    return {"color": color, "marker": marker, "linestyle": linestyle}


DENSE = _look(GRAY, "s", ":")
PRUNING = _look(BLUE, "o", "-")
RETRAINED = _look(GREEN, "D", "-")
QUANTIZATION = _look(RED, "^", "--")
COMBINED = _look(PINK, "v", "-.")
REPORTED: dict[str, Any] = _look("black", "*", "none") | {"markerfacecolor": "none", "markersize": 12}

# Keyed by the technique's id in survey/techniques.yml, or by the word for a treatment. Techniques that are yet to come
# are here too, since adding a look makes each chapter run again. Two techniques of a section differ in color or marker.
LOOKS: dict[str, dict[str, Any]] = {
    "dense": DENSE,
    "float": DENSE,
    "random": _look(GRAY, "x", "--"),
    "reported": REPORTED,
    "pruned": PRUNING,
    "retrained": RETRAINED,
    "iterated": COMBINED,
    "teacher": _look(GRAY, "D", "-"),
    "ensemble": _look(GRAY, "h", "--"),
    "prune-magnitude-iterative": PRUNING,
    "prune-obd": _look(RED, "^", "--"),
    "prune-obs": _look(PINK, "v", "-."),
    "prune-lottery-ticket": _look(BLUE, "o", "-"),
    "prune-filter-l1": _look(ORANGE, "<", "--"),
    "prune-molchanov-criteria": _look(RED, ">", "-"),
    "prune-fpgm": _look(SKY, "h", "-."),
    "prune-nisp": _look(PINK, "p", "-."),
    "prune-thinet": _look(BLUE, "H", "-"),
    "prune-channel-lasso": _look(GREEN, "D", "-"),
    "prune-dcp": _look(SKY, "P", "--"),
    "prune-gal": _look(PINK, "d", "-."),
    "prune-runtime-rnn": _look(GREEN, "X", "-"),
    "prune-channel-threshold": _look(ORANGE, "d", "--"),
    "prune-structured-granularity": _look(SKY, "s", "-"),
    "prune-particle-filter": _look(BLUE, ".", "-"),
    "factorize-svd": _look(BLUE, "s", "-"),
    "factorize-spatial": _look(RED, "p", "--"),
    "factorize-cp": _look(GREEN, "d", "-"),
    "factorize-tucker": _look(PINK, "P", "-."),
    "gong-scalar-kmeans": QUANTIZATION,
    "optimal-kmeans-1d": _look(BLUE, "o", "-"),
    "gong-binary": _look(GRAY, "X", ":"),
    "gong-product-quantization": _look(GREEN, "p", "-"),
    "gong-residual-quantization": _look(PINK, "d", "-."),
    "deep-compression": COMBINED,
    "hessian-weighted-kmeans": _look(BLUE, "h", "-"),
    "ecsq-uniform": _look(GREEN, "s", "-"),
    "ecsq-lloyd": _look(PINK, "p", "-."),
    "affine-int8": _look(RED, "s", "--"),
    "qat-int8": _look(GREEN, "D", "-"),
    "nearest rounding": QUANTIZATION,
    "stochastic rounding": _look(BLUE, "o", "-"),
    "fixed-point-gupta": _look(BLUE, "o", "-"),
    "courbariaux-low-precision-multiplications": _look(GREEN, "D", "-"),
    "early-limited-precision": QUANTIZATION,
    "embedded-fixed-point-face-cnn": _look(PINK, "v", "-."),
    "binaryconnect": QUANTIZATION,
    "bnn": _look(BLUE, "o", "-"),
    "bwn": _look(ORANGE, "<", "--"),
    "xnor-net": _look(GREEN, "D", "-"),
    "abc-net": _look(PINK, "v", "-."),
    "gxnor-dst": _look(SKY, "P", "-"),
    "bipolar-regularizer": _look(RED, ">", "--"),
    "bulat-binary-block": _look(BLUE, "s", "-."),
    "kd-logit-mimic": _look(BLUE, "o", "-"),
    "kd-linear-bottleneck": _look(RED, "^", "--"),
    "kd-model-compression": _look(GREEN, "D", "-"),
    "kd-soft-targets": _look(PINK, "v", "-."),
    "kd-ensemble": _look(ORANGE, "<", "--"),
    "kd-nst": _look(SKY, "P", "-."),
    "kd-darkrank": _look(BLUE, "s", "-"),
    "kd-internal-representations": _look(RED, "p", "--"),
    "kd-svd": _look(GREEN, "h", "-"),
    "kd-label-smoothing": _look(PINK, "d", "-."),
    "hash-feature-hashing": _look(BLUE, "o", "-"),
    "hash-hashednets": _look(RED, "^", "--"),
    "hash-simhash-lsh": _look(GREEN, "D", "-"),
    "hash-mips-alsh": _look(PINK, "v", "-."),
    "hash-lsh-sparse-layers": _look(ORANGE, "<", "--"),
    "filter-size-factorization": _look(BLUE, "o", "-"),
    "inception-module": _look(RED, "^", "--"),
    "residual-block": _look(GREEN, "D", "-"),
    "dense-block": _look(PINK, "v", "-."),
    "squeezenet": _look(ORANGE, "<", "--"),
    "squeeze-segnet": _look(SKY, "P", "-."),
    "spatially-separable-filters": _look(BLUE, "s", "-"),
    "depthwise-separable": _look(RED, "p", "--"),
    "mobilenet-v1": _look(GREEN, "h", "-"),
    "shufflenet-v1": _look(PINK, "d", "-."),
    "binarized-hourglass": _look(ORANGE, ">", "--"),
    "rosenblatt-perceptron": _look(BLUE, "o", "-"),
    "willshaw-malsburg": _look(RED, "^", "--"),
    "self-organizing-map": _look(GREEN, "D", "-"),
    "neural-gas": _look(PINK, "v", "-."),
    "growing-cell-structures": _look(ORANGE, "<", "--"),
    "growing-neural-gas": _look(SKY, "P", "-."),
    "neat": _look(BLUE, "o", "-"),
    "competing-conventions": _look(RED, "^", "--"),
    "codeepneat": _look(GREEN, "D", "-"),
    "network-morphism": _look(BLUE, "o", "-"),
    "auto-keras": _look(RED, "^", "--"),
    "path-level-morphism": _look(GREEN, "D", "-"),
    "convolutional-neural-fabrics": _look(BLUE, "o", "-"),
    "enas": _look(RED, "^", "--"),
    "budgeted-super-networks": _look(GREEN, "D", "-"),
    "mnasnet": _look(PINK, "v", "-."),
}
PERCENT = (0.0, 100.0)  # the bounds of errors and accuracies


def look(name: str) -> dict[str, Any]:
    """Return the color, marker and line of a technique or treatment, a key of :data:`LOOKS`; ValueError for others.

    >>> look("dense")["color"]
    '#6b6b6b'
    """
    if name not in LOOKS:
        raise ValueError(f"a look must be one of {', '.join(LOOKS)}, not {name!r}")
    return LOOKS[name]
