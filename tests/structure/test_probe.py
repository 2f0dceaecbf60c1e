"""The probe sees whatever of removed channels gets past the layers that are said to read them."""

import torch
from given_structure import between, images

from lib.structure.group import Group
from lib.structure.probe import Probe, Twin

REMOVED = torch.arange(8) < 3
GROUP = Group(8, ("a",), {}, {"b": torch.arange(8)[:, None]})


def probed(model, noise=False):
    probe = Probe(model, [(GROUP, REMOVED)])
    probe.noise = noise
    return probe, probe.answers(images(), training=False)


def test_nothing_gets_past_the_reader_of_a_right_group():
    probe, found = probed(between(lambda net, x: x))
    assert probe.wrote == {"a"} and probe.outside == [] and not found.outputs[0].isnan().any()


def test_channels_in_another_order_are_outside():
    probe, found = probed(between(lambda net, x: x.flip(1)))
    assert probe.outside == ["b"] and found.outputs[0].isnan().any()


def test_a_second_way_shows_in_the_answers():
    model = between(lambda net, x: x + 0 * x.mean(1, keepdim=True))
    assert probed(model)[0].outside == ["b"]


def test_noise_of_removed_filters_is_zero_for_their_reader():
    model = between(lambda net, x: x)
    found, other = probed(model, noise=True)[1], probed(model)[1]
    assert torch.equal(found.outputs[0], other.outputs[0]) and found.read[0] == other.read[0] > 0


def test_a_twin_notes_what_its_readers_got():
    model = between(lambda net, x: x)
    seen = []
    model.b.register_forward_pre_hook(lambda layer, given: seen.append(given[0].abs().sum(dtype=torch.float64)))
    with torch.no_grad():
        model.eval()(images())
    assert Twin(model, ["b"]).answers(images(), training=False).read[0] == seen[0]
