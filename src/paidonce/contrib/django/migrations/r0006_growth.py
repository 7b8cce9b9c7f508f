"""Indexes for what an old shop looks for."""

from __future__ import annotations

from paidonce.contrib.django.schema import revision_migration

Migration = revision_migration("0006", after="r0005_security")
