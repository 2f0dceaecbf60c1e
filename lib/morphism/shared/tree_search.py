r"""Search a tree of morphs for the most promising one (jin2019autokeras, algorithm 1).

The tree starts from all evaluated networks. The most promising one leaves the queue, and with the probability
:math:`e^{\min((\alpha - \alpha^*) / T,\; 1)}` eight random morphs of it enter, where :math:`\alpha^*` is the best bound
so far; then the temperature T falls by a tenth, from 1 to 0.0001.
"""

import heapq
import itertools
import math
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

C = TypeVar("C")
K = TypeVar("K", bound=Hashable)

MORPHS, HOTTEST, COLDEST, COOLING = 8, 1.0, 1e-4, 0.9  # of the authors' tree search


@dataclass(frozen=True)
class Node(Generic[C]):
    """A candidate in the tree.

    path: from the evaluated candidate that it comes from to itself, each a morph of the one before.
    parent: the row of that evaluated candidate; None if there is none.
    """

    path: tuple[C, ...]
    parent: int | None = None

    @property
    def candidate(self) -> C:
        """What may be evaluated next: the end of the path."""
        return self.path[-1]


def climb(
    roots: Sequence[Node[C]],
    scores: Sequence[float],
    *,
    morph: Callable[[C, np.random.Generator], C],
    describe: Callable[[C], K],
    bounds: Callable[[Sequence[K]], Sequence[float]],
    tried: Collection[K],
    random: np.random.Generator,
) -> Node[C] | None:
    """Search the tree of morphs for the largest bound of an architecture that was not tried.

    roots: the evaluated candidates.
    scores: how promising each of them is, larger = more; in units of about 1, as the temperature is.
    morph: draws a morph of a candidate with numpy's generator.
    describe: what makes two candidates the same architecture.
    bounds: how promising each of some architectures is; of none, an empty list.
    tried: architectures that do not count.
    random: numpy's generator.

    Returns the node; None if no morph is new. Raises ValueError unless there is one score for each root.

    >>> node = climb(
    ...     [Node((10,))],
    ...     [0.0],
    ...     morph=lambda width, random: width + int(random.choice([-1, 1])),
    ...     describe=lambda width: width,
    ...     bounds=lambda widths: [-abs(width - 14) for width in widths],
    ...     tried={10},
    ...     random=np.random.default_rng(0),
    ... )
    >>> node.candidate, node.path
    (14, (10, 11, 12, 13, 14))
    """
    order = itertools.count()  # decides between equals, since nodes cannot be compared
    queue = [(-score, next(order), node) for score, node in zip(scores, roots, strict=True)]
    heapq.heapify(queue)
    seen, chosen, best, temperature = set(tried), None, -math.inf, HOTTEST
    # method
    while queue and temperature > COLDEST:
        negative, _, node = heapq.heappop(queue)  # the heap's first is its smallest
        if random.random() <= math.exp(min((-negative - best) / temperature, 1)):
            morphs = [morph(node.candidate, random) for _ in range(MORPHS)]
            new = {describe(one): one for one in morphs if describe(one) not in seen}
            for one, bound in zip(new.values(), bounds(list(new)), strict=True):
                child = Node((*node.path, one), node.parent)
                heapq.heappush(queue, (-bound, next(order), child))
                if bound > best:
                    best, chosen = bound, child
            seen |= new.keys()
        temperature *= COOLING
    return chosen
    # end of method
