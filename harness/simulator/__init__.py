"""The simulator: executes an artifact's compiled PTX without a GPU, functionally and timed."""
