"""How fast a whole checkout is, side by side with the least that it could cost. See docs/bench.md."""
