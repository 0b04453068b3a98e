"""How much may be asked for, so that too much is one line and not the end of the memory."""

from __future__ import annotations

# Four times the largest M that is swept as a rule. Operands at hidden 7168 are 0.9 GB in bf16 there;
# quantizing them takes 8.4 GB and simulating the launch 90 s (2026-11-28). More would not fit
# a host beside its compilers.
MAX_M = 65_536

# Twice the widest of published models: the operands' bytes grow with it as they do with M.
MAX_HIDDEN = 32_768

# A traced layer's attention compares every token with every other one: 16.6 GB with these, 2.4 GB with a
# quarter of them (the default layer, scaled down by 16, 2026-11-28).
MAX_TRACED_TOKENS = 4_096
