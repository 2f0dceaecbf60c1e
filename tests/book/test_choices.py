"""A chapter that chooses by the test split is found, and one that chooses by validation is not."""

import ast

import pytest

from lib.book import choices

ERRORS = "errors = {name: rate(nets[name], dataset.test) for name in nets}\n"
CHECKED = "errors = {name: rate(nets[name], dataset.validation) for name in nets}\n"
PICKS = [
    "best = min(errors, key=errors.get)",
    "best = max(errors, key=lambda name: -errors[name])",
    "best = list(errors)[np.argmin(list(errors.values()))]",
    "order = sorted(errors, key=errors.get)",
    "good = [name for name in nets if errors[name] <= 2]",
    "good = [name for name, error in errors.items() if error < 2]",
]


def found(code: str) -> list[str]:
    return [name for _, name in choices.picks(ast.parse(code)) if name]


@pytest.mark.parametrize("pick", PICKS)
def test_a_pick_by_test_is_found_and_one_by_validation_not(pick):
    assert len(found(ERRORS + pick)) == 1
    assert found(CHECKED + pick) == [] and len(list(choices.picks(ast.parse(CHECKED + pick)))) == 1


@pytest.mark.parametrize(
    ("measured", "search"),
    [
        ("truth = table.load().truth()", "mnasnet.search(space, truth.get, budget=9)"),
        ("truth = table.load().truth()", "search(space, lambda one: truth[one], seed=0)"),
        ("truth = {one: rate(one, dataset.test) for one in space}", "search(evaluate=truth.get, space=space)"),
        ("truth = [rate(one, dataset.test) for one in space]", "particles.search(truth.index)"),
    ],
)
def test_a_search_that_is_rewarded_by_the_test_split_is_found(measured, search):
    assert found(f"{measured}\nhistory = {search}") == ["truth"]
    assert found(f"{measured}\ndef tried(truth):\n    return {search}") == []  # another one, that the caller gives
    by_validation = search.replace("truth", "by_validation")
    assert found(f"{measured}\nby_validation = partial(held.validation, seed=0)\nhistory = {by_validation}") == []


@pytest.mark.parametrize(
    "code",
    [
        "held, seen = small(dataset.validation), small(dataset.test)\nerror = [rate(net, seen) for net in nets]",
        "def judge(net):\n    return rate(net, dataset.test)\nerror = [judge(net) for net in nets]",
        "error = []\nfor net in nets:\n    error.append(rate(net, dataset.test))",
        "error = {}\nerror['a', 1] = rate(net, dataset.test)",
        "rates = {}\nrates['a'] = [rate(net, dataset.test)]\nfor name, error in rates.items():\n    print(name)",
        "for net, error in zip(nets, [rate(net, dataset.test) for net in nets]):\n    print(net)",
        "error = 0\nerror += rate(net, dataset.test)",
        "held, error = [rate(net, split) for split in (dataset.validation, dataset.test)]",
        "held = table.load()\nerror = [held.truth()[net] for net in nets]",
    ],
)
def test_the_split_is_followed_through_names_containers_and_functions(code):
    assert found(code + "\nbest = np.argmin(error)") == ["error"]


@pytest.mark.parametrize(
    "code",
    [
        "held, seen = small(dataset.validation), small(dataset.test)\nbest = np.argmin(held)",
        "held, seen = (small(split) for split in (dataset.validation, dataset.test))\nbest = np.argmin(held)",
        ERRORS + "best = np.argmin(rate(net, held, **errors))",
        "def judge(error):\n    worst = -error\n    return np.argmin(worst)\nerror = rate(net, dataset.test)",
        ERRORS + "most = max(errors.values())",
        ERRORS + "seen = errors_of(nets, dataset.validation, errors)\nbest = np.argmin(seen)",
        "rows = {n: {'validation': rate(n, held), 'test': rate(n, dataset.test)} for n in nets}\n"
        "best = min(nets, key=lambda n: rows[n]['validation'])",
        ERRORS + "for name in errors:\n    first = min(nets, key=lambda net: sizes[net, name])",
        ERRORS + "for name, error in errors.items():\n    first = np.argmin(sizes[name])",
        ERRORS + "shown = [name for name in errors if name != 'dense']",
        "x = [m for m in rate(dataset.test)]\nlow = min(nets, key=lambda m: sizes[m])",
    ],
)
def test_what_only_looks_like_it_is_none(code):
    assert found(code) == []


@pytest.mark.parametrize(("comment", "wrong"), [("", 1), ("  # not chosen by test", 0)])
def test_a_line_may_say_that_it_only_shows(tmp_path, comment, wrong):
    (tmp_path / "chapters").mkdir()
    (tmp_path / "_toc.yml").write_text("root: index\nchapters:\n- file: chapters/pruning\n")
    text = f"# %% [markdown]\n# # One\n\n# %%\nerror = rate(dataset.test)\nbest = np.argmin(error){comment}\n"
    (tmp_path / "chapters" / "pruning.py").write_text(text)
    count, said = choices.by_test(tmp_path)
    assert (count, len(said)) == (1, wrong)
    assert all(
        "chapters/pruning.py picks by 'error', which holds test results: best = np.argmin" in one for one in said
    )
