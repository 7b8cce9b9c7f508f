"""Goods reserved for orders of a shop that has tables of its own."""

from __future__ import annotations

from paidonce.contrib.django.schema import revision_migration

Migration = revision_migration("0003", after="r0002_first_schema")
