<%
    from pprint import pformat
    from paidonce.db.tables import TRIGGERS
%>"""${message[:1].upper()}${message[1:]}."""

# ruff: noqa: E501 - the words of a constraint stay on the line that Alembic wrote.
from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
% if down_revision is None:

TRIGGERS: dict[str, tuple[str, ...]] = ${pformat(TRIGGERS, width=116)}
% endif


def upgrade() -> None:
    """Upgrade from `down_revision`."""
    ${'\n'.join(line for line in upgrades.splitlines() if '### ' not in line).strip()}
% if down_revision is None:
    connection = op.get_bind()
    for statement in TRIGGERS[connection.dialect.name]:
        connection.execute(sa.text(statement))
% endif


def downgrade() -> None:
    """Refuse: going back would forget payments. Restore a backup instead."""
    raise NotImplementedError("restore a backup instead of downgrading")
