"""Series of stages run by one command: the tables of the paper and of our own studies, refreshed caches, and checks."""
