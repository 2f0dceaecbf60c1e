"""Knowledge distillation: a student learns from what a teacher answers, not from labels alone (section 2.1).

Each technique has a ``loss(student, teacher, labels)`` or changes the teacher, and most have a ``distiller``, which
``training.fit`` takes as ``teaching``.

soft_targets.py               the teacher's probabilities, made softer by a temperature
logit_mimic.py                the teacher's logits, by least squares
linear_bottleneck.py          a wide first layer as the product of two narrow ones
model_compression.py          samples that are made up from a few real ones, labeled by the teacher
ensemble.py                   several teachers, one student
label_smoothing.py            teachers trained on smoothed labels, and what they no longer show
neuron_selectivity.py         where channels respond, as a distribution
darkrank.py                   the order of the other samples by their similarity
internal_representations.py   attention and state of a transformer, layer by layer
singular_vectors.py           how the singular vectors of maps relate from layer to layer
shared/                       the distiller, a small transformer, and how alike two networks answer or rank
"""
