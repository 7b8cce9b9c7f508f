from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import paidonce.db
from paidonce.errors import ConfigError


def test_three_slashes_are_relative_and_four_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert paidonce.db.sqlite_path("sqlite:///shop.db") == Path("shop.db")
    assert paidonce.db.sqlite_path(f"sqlite:///{tmp_path}/my shop.db") == tmp_path / "my shop.db"
    assert paidonce.db.sqlite_path("postgresql://user@host/shop") is None
    assert paidonce.db.sqlite_path("postgres://user@host/shop") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "no scheme"),
        ("shop.db", "no scheme"),
        ("mysql://shop:canary@host/shop", "unknown scheme 'mysql'"),
        ("postgresql+asyncpg://shop:canary@host/shop", "unknown scheme"),
        ("sqlite://shop.db", "three slashes"),
        ("sqlite:shop.db", "three slashes"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "would forget payments"),
        ("sqlite:///shop.db?mode=ro", "takes none"),
        ("sqlite:////no/such/folder/shop.db", "create it first"),
        ("sqlite:////", "names the folder"),
        ("postgresql://[canary/shop", "can't be read as a URL"),
    ],
)
async def test_a_wrong_url_names_the_setting_and_the_fix(
    url: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for call in (paidonce.db.connect, paidonce.db.migrate, paidonce.db.pending):
        with pytest.raises(ConfigError, match="PAIDONCE_DATABASE_URL") as caught:
            await call(url)
        assert problem in str(caught.value)
        assert "sqlite:///paidonce.db" in str(caught.value)
        assert "canary" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_opening_sqlite_loads_neither_sqlalchemy_nor_asyncpg(sqlite_url: str) -> None:
    script = """
import asyncio, sys, paidonce.db
async def main(url):
    await (await paidonce.db.connect(url)).close()
asyncio.run(main(sys.argv[1]))
assert not {"sqlalchemy", "alembic", "asyncpg"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script, sqlite_url], check=True)
