"""One candidate: compile it, run it, check it, time it, survive it."""
