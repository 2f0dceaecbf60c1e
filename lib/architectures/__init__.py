"""Architectures that are small or fast by design (section 3.1).

Each file holds the modules of one technique and the networks that its paper builds from them. A network is built by a
function that takes a seed first, then the size of its parts by name.

shared/   what several of them use
"""
