"""One whole run: shrink a network by a recipe, and compare it with the network as given and as trained further."""

import copy
from dataclasses import dataclass

from torch import nn

from lib import seeding, storage
from lib.datasets import Dataset
from lib.recipes import costs
from lib.recipes.methods import METHODS, Made, Plan, plan_for

GIVEN, LONGER, SHRUNK = "as given", "trained on", "shrunk"


@dataclass(frozen=True)
class Result:
    """The result of a run.

    method: the recipe's name.
    amount: how far it went.
    made: the shrunk network.
    costs: "as given", "trained on" (unchanged, for as many epochs as the recipe trained) and "shrunk" -> costs.
    """

    method: str
    amount: float
    made: Made
    costs: dict[str, costs.Costs]


def follow(
    model: nn.Module,
    data: Dataset,
    *,
    method: str,
    amount: float | None = None,
    epochs: int = 3,
    learning_rate: float = 0.001,
    seed: int = 0,
    rival: nn.Module | None = None,
) -> Result:
    """Shrink a trained network, and measure what it costs before and after.

    model: a trained classifier of the data's images; left as it was.
    data: the training split is for retraining, the validation split for choosing, and the test split only for the
        report.
    method: one of :data:`lib.recipes.methods.METHODS`.
    amount: how far to go, in the recipe's own unit; default its usual one.
    epochs: passes of retraining, 0 or more, default 3. The unchanged network gets as many, for a fair rival.
    learning_rate: of the first step, default 0.001.
    seed: of the order of the samples, 0 or more, default 0.
    rival: the unchanged network, trained further for as many epochs; default: it is trained here.

    Raises ValueError for an argument that is not accepted and, naming the layer, if the recipe does not fit the
    network.

    >>> from lib import datasets, models
    >>> digits = datasets.load("digits", first=(60, 10, 40))
    >>> result = follow(models.lenet5(), digits, method="rounded", epochs=0)
    >>> result.costs["as given"].file_bytes > 4 * result.costs["shrunk"].file_bytes
    True
    """
    plan = plan_for(method, data.train, amount=amount, epochs=epochs, seed=seed, learning_rate=learning_rate)
    network = copy.deepcopy(model).eval()
    storage.dumps(network)  # refuses at once what no file can hold
    with seeding.seeded(seed):  # dropout draws from the global generator
        shrunk = METHODS[method].apply(network, plan)
    candidates = {GIVEN: Made(network, network, network)}
    if METHODS[method].trains and epochs:
        if rival is None:
            rival = trained_on(network, plan)
        candidates[LONGER] = Made(rival, rival, rival)
    candidates[SHRUNK] = shrunk
    return Result(method, plan.amount, shrunk, costs.measured(candidates, data.test, data.validation))


def trained_on(model: nn.Module, plan: Plan) -> nn.Module:
    """Return a copy of a network, trained further for as many epochs as the recipe retrains: its fair rival.

    model: left as it was.
    plan: of the recipe.
    """
    longer = copy.deepcopy(model)
    with seeding.seeded(plan.seed):
        plan.retrain(longer)
    return longer
