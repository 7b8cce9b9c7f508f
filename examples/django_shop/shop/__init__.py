"""The shop: its catalogue, its orders, its pages."""
