"""Looks after a run folder: counts its rows, compares its files with the records, repairs and cleans up."""
