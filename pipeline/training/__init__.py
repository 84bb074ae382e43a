"""The training loop, its batches and checkpoints, and the scores of trained networks."""
