"""The notebooks of gateways that have no counterpart to ask."""

from __future__ import annotations

from paidonce.contrib.django.schema import revision_migration

Migration = revision_migration("0004", after="r0003_reservations")
