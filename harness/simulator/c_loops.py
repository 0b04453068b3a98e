"""The machine's loops in C, all of them."""

from __future__ import annotations

from harness.simulator.moves import load_moves
from harness.simulator.order_loops import load_order
from harness.simulator.pages import load_pages
from harness.simulator.products import load_products
from harness.simulator.race_loops import load_races


def load_loops() -> None:
    """Build them and load them; raises `ToolchainError` when that cannot be done.

    Each is loaded where it is needed, too; but what fails while a candidate runs would be its fault.
    """
    load_moves()
    load_order()
    load_pages()
    load_products()
    load_races()
