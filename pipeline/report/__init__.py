"""One self-contained page about a run, and pictures of one video, both made from the run folder alone."""
