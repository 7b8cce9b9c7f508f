"""Runs the package's own contract suite as a part of `make test`. Whoever adds a gateway runs it by --pyargs."""

from importlib import import_module
from pkgutil import iter_modules

from paidonce import contract

for found in iter_modules(contract.__path__):
    if found.name.startswith("test_"):
        module = import_module(f"{contract.__name__}.{found.name}")
        tests = {name: test for name, test in vars(module).items() if name.startswith("test_")}
        assert tests, f"{found.name} holds no test"
        assert not tests.keys() & globals().keys(), f"{found.name} takes another file's names"
        globals().update(tests)
