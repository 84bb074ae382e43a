"""What stands in place of a result where the process that worked on a job was killed, and so was every retry."""

KILLED = object()
