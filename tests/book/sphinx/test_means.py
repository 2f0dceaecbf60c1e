"""The role that shows a measurement without its spread."""

import pytest

from lib.book.sphinx import means

RESULTS = {
    means.PROFILE: {
        "one.net.error_pct": {"values": [1.0, 2.0, 4.5], "unit": "%", "digits": 2},
        "one.net.file_ratio": {"values": [11.6], "unit": "x", "digits": 1},
    },
    "standard": {"one.net.error_pct": {"values": [0.75], "unit": "%", "digits": 2}},
}


@pytest.mark.parametrize(
    ("role", "text"),
    [
        ("one.net.error_pct", "2.50 %"),
        ("one.net.error_pct 0", "2 %"),
        ("one.net.error_pct 1", "2.5 %"),
        ("one.net.file_ratio", "11.6×"),
        ("one.net.file_ratio 0", "12×"),
        ("one.net.error_pct standard", "0.75 %"),
        ("one.net.error_pct 1 standard", "0.8 %"),
    ],
)
def test_a_mean_has_its_unit_and_no_interval(role, text):
    assert means.mean(role, RESULTS) == text


@pytest.mark.parametrize(
    ("role", "says"),
    [
        ("one.net.missing_pct", r"'one.net.missing_pct' was not measured in the \w+ profile"),
        ("one.net.file_ratio standard", "was not measured in the standard profile"),
        ("one.net.error_pct full", "was not measured in the full profile"),
        ("one.net.error_pct two", "a mean must be `key`"),
        ("one.net.error_pct 1 2", "a mean must be `key`"),
        ("", "a mean must be `key`"),
    ],
)
def test_what_was_not_measured_is_refused(role, says):
    with pytest.raises(ValueError, match=says):
        means.mean(role, RESULTS)
