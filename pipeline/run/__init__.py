"""A run folder: plan, labels, stores, units of work and their commits, trained networks, results and provenance."""
