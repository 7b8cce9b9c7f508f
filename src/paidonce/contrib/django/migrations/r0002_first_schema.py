"""Payments, their operations, refunds, the journal, the inbox and the outbox."""

from __future__ import annotations

from paidonce.contrib.django.schema import revision_migration

Migration = revision_migration("0002", after=None)
