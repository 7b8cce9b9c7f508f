"""A shop around django-payments and its Stripe provider."""
