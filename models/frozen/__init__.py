"""Networks for running only: batch-norm folded, and I3D's forward and input-gradient passes written out."""
