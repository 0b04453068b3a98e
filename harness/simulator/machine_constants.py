"""Numbers that both the machine and its effects need."""

# Where the parameters' addresses begin: no host address has this bit.
PARAM_BASE = 1 << 62
