"""Turn scores of filters into masks, and masks into a network that is physically smaller.

Filter j of a layer can be removed only together with everything that depends on its channel: the channel's batch norm
and depthwise filter, the kernels of the next layers that read it, and channel j of every layer whose output is added to
its own. Such a set is a :class:`Group`.

group.py      what a group is
choice.py     scores to masks
cutting.py    masks to the masked or the smaller network, checked before it is returned
grouping.py   the groups of a network: suggested by a trace, and confirmed by the same check
proof.py      does the smaller network compute what the whole one does when nothing reads the channels?

What these use:

graph.py      what depends on what, recorded by ``torch-pruning``
tracing.py    the groups that follow from it
copies.py     the masked and the smaller copy of a network
probe.py      what reaches the layers that read removed channels
apart.py      running a network without changing it
"""

from lib.structure.choice import Masks, keep
from lib.structure.cutting import fraction_for, mask, shrink
from lib.structure.group import CONVOLUTION, PER_CHANNEL, Group
from lib.structure.grouping import groups

__all__ = ["CONVOLUTION", "PER_CHANNEL", "Group", "Masks", "fraction_for", "groups", "keep", "mask", "shrink"]
