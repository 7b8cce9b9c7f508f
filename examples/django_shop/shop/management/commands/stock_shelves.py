"""`manage.py stock_shelves`: products, a buyer and a member of staff, for trying the shop."""

import secrets

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand

from shop.models import Product

GOODS = [
    ("INK-50", "Midnight ink", "50 ml of blue that is almost black.", "ink.svg", 1450, 24),
    ("PAPER-A5", "Laid paper", "A hundred sheets, cut by hand.", "paper.svg", 1990, 40),
    ("LAMP-7", "Desk lamp", "Warm light for late letters.", "lamp.svg", 4950, 10),
    ("TEA-250", "Loose tea", "Assam, a quarter of a kilo.", "tea.svg", 890, 60),
    ("SEAL-3", "Sealing wax", "Three sticks and a brass seal.", "seal.svg", 2380, 15),
    ("BOAT-1", "The paper boat", "Folded, varnished, seaworthy. One of one.", "boat.svg", 12000, 1),
]
PASSWORD = "paper-boat"  # noqa: S105 - for trying, on this machine only.


class Command(BaseCommand):
    """Safe to repeat: what is there stays as it is."""

    help = "Put products on the shelves, and make the accounts 'buyer' and 'staff'."

    def add_arguments(self, parser):
        parser.add_argument("--easy-password", action="store_true", help="One that everybody can read here.")

    def handle(self, *, easy_password, **_):
        for position, (sku, name, description, picture, price, stock) in enumerate(GOODS):
            values = {"name": name, "description": description, "picture": picture, "price_cents": price}
            Product.objects.get_or_create(sku=sku, defaults={**values, "stock": stock, "position": position})
        password = PASSWORD if easy_password else secrets.token_urlsafe(12)
        for name, staff in (("buyer", False), ("staff", True)):
            user, is_new = User.objects.get_or_create(
                username=name, defaults={"is_staff": staff, "is_superuser": staff}
            )
            if is_new:
                user.set_password(password)
                user.save()
                self.stdout.write(f"Sign in as {name} with {password}")
