"""Speed and size as ratios: each row runs both sides on the same input, checks that they agree, and divides."""

from pipeline.workers.openmp import wait_briefly

wait_briefly()  # as the commands do
