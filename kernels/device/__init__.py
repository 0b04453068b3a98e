"""Device code that every target shares: score functions, the running top k, the gate kernel."""
