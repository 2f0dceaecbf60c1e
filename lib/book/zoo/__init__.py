"""Try every technique on networks it was not written for: ``make zoo``.

``networks``   the networks, and small inputs for them
``trials``     tries what each kind of technique promises
``agreement``  integers against their simulation, part by part
``matrix``     technique x network, run and recorded
"""
