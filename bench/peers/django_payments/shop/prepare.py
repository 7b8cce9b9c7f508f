"""`python -m shop.prepare`: the tables and the catalogue."""

from __future__ import annotations

import django


def main() -> None:
    """Make what is missing."""
    django.setup()
    from django.core.management import call_command

    call_command("migrate", run_syncdb=True, verbosity=0)
    from shop.models import Product

    Product.objects.bulk_create(Product(sku=f"SKU-{number:04d}", price=1800, stock=10**8) for number in range(1000))


if __name__ == "__main__":
    main()
