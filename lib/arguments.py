"""Checks of arguments: sizes are whole numbers and not too small, and names are on a list."""

from collections.abc import Collection, Mapping


def check_sizes(sizes: Mapping[str, int], least: Mapping[str, int] | None = None) -> None:
    """Raise ValueError for the first size that is not a whole number, or is too small.

    sizes: name -> value, as the caller named them.
    least: name -> smallest value; default 1, and 2 for ``classes``.

    >>> check_sizes({"channels": 3, "layers": 1}, {"layers": 2})
    Traceback (most recent call last):
    ValueError: layers must be a whole number of 2 or more, not 1
    """
    for name, value in sizes.items():
        fewest = (least or {}).get(name, 2 if name == "classes" else 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < fewest:
            raise ValueError(f"{name} must be a whole number of {fewest} or more, not {value!r}")


def check_one_of(name: str, value: object, accepted: Collection[str]) -> None:
    """Raise ValueError unless ``value`` is one of the accepted ones; the message lists them.

    name: what the message calls the argument.
    value: the given value.
    accepted: the values that may be given.

    >>> check_one_of("scope", "layer", ("layer", "global"))
    >>> check_one_of("scope", "filter", ("layer", "global"))
    Traceback (most recent call last):
    ValueError: scope must be one of layer, global, not 'filter'
    """
    if value not in accepted:
        raise ValueError(f"{name} must be one of {', '.join(accepted)}, not {value!r}")
