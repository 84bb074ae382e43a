"""Speed and size as ratios: each row runs both sides on the same input, checks that they agree, and divides."""
