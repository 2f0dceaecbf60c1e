"""What the run of a chapter used, in words."""

from lib.book.sphinx import cost

RESULT = {
    "chapter": "pruning",
    "data": [{"name": "digits", "train": 1078, "validation": 269, "test": 450, "source": "scikit-learn"}],
    "records": {"pruning.a.b": {"values": [1.0]}, "pruning.a.c": {"values": [1.0, 2.0, 3.0]}},
}
STAMP = {"seconds": 119.6, "peak_mib": 1234.5, "processor": "a processor", "versions": {"torch": "2.13.0"}}


def test_the_costs_in_short_name_profile_data_and_time():
    data = [{"name": "digits"}, {"name": "vowel"}, {"name": "digits"}]
    in_short = cost.in_short("standard", {"data": data}, {"seconds": 150})
    assert in_short.replace("\N{NO-BREAK SPACE}", " ").endswith(
        "standard profile, digits and vowel, 2.5 min on 1 thread"
    )
    assert "no data" in cost.in_short("standard", {"data": []}, {"seconds": 1})


def test_the_facts_have_times_seeds_and_the_record():
    said = cost.facts("quick", RESULT, STAMP).replace("\N{NO-BREAK SPACE}", " ")
    for fact in ("Time\n: 120 s", "Peak memory\n: 1,234 MiB", "Seeds\n: 1 to 3 for each measurement", "torch 2.13.0"):
        assert fact in said
    assert "`results/quick/pruning.json`, 2 measurements" in said and "1,078 training" in said
    assert "Data\n: none" in cost.facts("quick", RESULT | {"data": []}, STAMP)
