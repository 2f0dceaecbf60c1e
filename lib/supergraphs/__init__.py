"""Supergraphs (survey section 3.2.4): one large network whose subnetworks are the candidates of a search."""
