"""Ids are drawn many at once; nobody gets one that somebody else has."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from paidonce.ports import RandomIds

_FORKED = """
import os
from paidonce.ports import RandomIds
ids = RandomIds()
ids.new("x")  # From now on, more are waiting.
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, " ".join(ids.new("x") for _ in range(100)).encode())
    os._exit(0)
os.wait()
child = os.read(read, 65536).decode().split()
mine = [ids.new("x") for _ in range(100)]
print(len({*child, *mine}))
"""


def test_an_id_has_its_prefix_and_130_bits() -> None:
    drawn = [RandomIds().new("pay") for _ in range(1000)]
    assert all(re.fullmatch(r"pay_[0-9a-hjkmnp-tv-z]{26}", one) for one in drawn)
    # Each place takes each of the 32 signs; that one is left out by chance is as likely as winning the lottery.
    assert all(len({one[place] for one in drawn}) == 32 for place in range(4, 30))


def test_threads_share_no_id() -> None:
    def draw(_: int) -> list[str]:
        return [RandomIds().new("x") for _ in range(1000)]

    with ThreadPoolExecutor(8) as pool:
        drawn = [one for many in pool.map(draw, range(8)) for one in many]
    assert len({*drawn}) == 8000


def test_processes_share_no_id() -> None:
    """A server that forks has drawn ids before; its children must not go on with the same ones."""
    told = subprocess.run([sys.executable, "-c", _FORKED], check=True, capture_output=True, text=True)
    assert told.stdout.strip() == "200"
