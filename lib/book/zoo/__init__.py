"""Every technique on networks that nobody here wrote: ``make zoo``.

``networks``  the networks, small inputs for them        ``trials``  what each kind of technique promises, tried
``matrix``    technique x network, run and recorded
"""
