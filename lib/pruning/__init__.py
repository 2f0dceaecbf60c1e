"""Pruning: remove weights, filters and channels that a network can do without (sections 2.3 and 4).

Single weights:

magnitude.py               remove the weights of small magnitude, then retrain the others
optimal_brain_damage.py    remove the weights that cost least, as the diagonal of the Hessian predicts
optimal_brain_surgeon.py   the same with the whole Hessian, while all other weights move to make up for it
lottery_ticket.py          reset the weights that pruning keeps to their initial values and train from there

Filters and channels:

filter_l1.py               filters whose absolute weights have a small sum go first
geometric_median.py        filters nearest to all others go first, since the others can replace them
molchanov.py               criteria from weights, activations, labels and gradients, and fine-tuning in between
nisp.py                    importance is propagated from the last features back to every filter
thinet.py                  channels that the next layer misses least go, one at a time
channel_lasso.py           a LASSO chooses channels, least squares refits the next layer
discrimination_aware.py    keep channels that rebuild the next layer and tell the classes apart
optimal_threshold.py       thresholds on the scales of batch norm, one for each layer
adversarial.py             soft masks learned without labels, against a discriminator
particle_filter.py         search with many masks at once: the better ones are copied and perturbed
runtime.py                 a recurrent network decides for each input how many channels to compute

Shape and speed:

granularity.py             holes of four shapes: weights, kernels, strides inside kernels, feature maps
sparse_speed.py            when a sparse layer is faster than a dense one
shared/                    what several of these use
"""
