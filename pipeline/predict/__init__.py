"""New videos in, actions and places out: one pass over each video with the networks of a finished run."""
