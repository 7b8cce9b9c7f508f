"""What Alembic runs: the connection comes from `paidonce.db.migration`, which owns the transaction and the lock."""

from typing import Any, Literal

import sqlalchemy as sa
from alembic import context

from paidonce.db.tables import metadata


def render_item(kind: str, item: Any, _: Any) -> str | Literal[False]:
    """Drafts say BIG for 64 bits, as their template defines it."""
    return "BIG" if kind == "type" and isinstance(item, sa.BigInteger) else False


context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.attributes["version_table"],
    target_metadata=metadata,
    render_item=render_item,
)
context.run_migrations()
