"""Ctrl-C is a parent's to hear: no child that is started deaf to it ever dies of it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

# In a process of its own: the first child that multiprocessing starts there is like no other.
DEAF = """
import multiprocessing, signal, time
from pathlib import Path
from harness.lifeline import deaf_children

if __name__ == "__main__":
    children = []
    for _ in range(2):
        with deaf_children():
            children.append(multiprocessing.get_context("spawn").Process(target=time.sleep, args=(0,)))
            children[-1].start()
    for child in children:
        print(Path(f"/proc/{child.pid}/status").read_text().partition("SigBlk:")[2].split()[0])
        child.join()
    print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""


def test_children_are_started_with_ctrl_c_blocked_and_their_parent_is_not(tmp_path: Path) -> None:
    script = tmp_path / "deaf.py"
    script.write_text(DEAF)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(root)},
    )
    first, second, parent = done.stdout.splitlines()
    assert all(int(mask, 16) >> (signal.SIGINT - 1) & 1 for mask in (first, second))
    assert parent == "set()"
