"""The audit log, who started a payment, and shared limits."""

from __future__ import annotations

from paidonce.contrib.django.schema import revision_migration

Migration = revision_migration("0005", after="r0004_notebooks")
