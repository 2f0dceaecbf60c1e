"""Arguments that are no sizes, or not in the list: what is said about the first of them."""

import pytest

from lib.arguments import check_one_of, check_sizes


def test_one_class_is_none_and_the_first_wrong_size_is_named():
    check_sizes({})
    check_sizes({"channels": 1, "classes": 2})
    with pytest.raises(ValueError, match="classes must be a whole number of 2 or more, not 1"):
        check_sizes({"channels": 1, "classes": 1})
    with pytest.raises(ValueError, match="stride must be a whole number of 1 or more, not 0"):
        check_sizes({"channels": 1, "stride": 0, "classes": 1})


def test_the_least_of_a_size_is_what_the_caller_says():
    check_sizes({"layers": 2, "padding": 0, "classes": 1}, {"layers": 2, "padding": 0, "classes": 1})
    with pytest.raises(ValueError, match="layers must be a whole number of 2 or more, not 1"):
        check_sizes({"width": 1, "layers": 1}, {"layers": 2})
    with pytest.raises(ValueError, match="width must be a whole number of 1 or more, not 0"):
        check_sizes({"width": 0, "layers": 2}, {"layers": 2})


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "3", None])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(ValueError, match=f"width must be a whole number of 1 or more, not {value!r}"):
        check_sizes({"width": value})


@pytest.mark.parametrize("accepted", [("layer", "global"), ["layer", "global"], {"layer": 1, "global": 2}])
def test_what_is_not_accepted_is_refused_with_what_is(accepted):
    for value in ("layer", "global"):
        check_one_of("scope", value, accepted)
    for value, shown in (("", "''"), ("Layer", "'Layer'"), ("lay", "'lay'"), (None, "None"), (1, "1")):
        with pytest.raises(ValueError) as error:
            check_one_of("scope", value, accepted)
        assert str(error.value) == f"scope must be one of layer, global, not {shown}"
