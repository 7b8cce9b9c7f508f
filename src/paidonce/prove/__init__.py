"""`paidonce prove`: the production core in a simulated world, where everything that can go wrong does.

Start with `world`: who can do what. `engine` holds the ports that a schedule decides over, `checks` the invariants,
`generate` runs from seeds, `flows` the exhaustive walk, `run` the counting; `story` and `shrink` tell a failure.
"""
