"""One self-contained page about a run, and one video as pictures: both from the run folder alone."""
