"""Many candidates: search spaces, the Optuna driver and the command line."""
