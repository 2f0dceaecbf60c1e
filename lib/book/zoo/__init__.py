"""Every technique on networks that nobody here wrote: ``make zoo``.

``networks``  the networks, small inputs for them        ``trials``  what each kind of technique promises, tried
``agreement`` integers against their simulation, part by part
``matrix``    technique x network, run and recorded
"""
