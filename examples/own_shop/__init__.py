"""A coffee roaster's shop with tables, users, sessions and pages of its own, and paidonce mounted into it."""
