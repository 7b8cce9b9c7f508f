"""The shop's pages: the catalogue, an order, and paying it."""

from django.contrib import messages
from django.contrib.auth import login
from django.contrib.auth.decorators import login_required
from django.contrib.auth.forms import UserCreationForm
from django.db.models import Sum
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST

from paidonce.contrib.django import csp
from shop.models import Order, OrderLine, Points, Product

MOST_PIECES = 99
_OWN = {
    "default-src": ["'none'"],
    "script-src": ["'self'"],
    "style-src": ["'self'"],
    "img-src": ["'self'"],
    "connect-src": ["'self'"],
    "form-action": ["'self'"],
    "base-uri": ["'none'"],
    "frame-ancestors": ["'none'"],
}


def catalogue(request):
    """What there is to buy."""
    return render(request, "shop/catalogue.html", {"products": Product.objects.all()})


def sign_up(request):
    """A new buyer."""
    form = UserCreationForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        login(request, form.save())
        return redirect("catalogue")
    return render(request, "registration/sign_up.html", {"form": form})


@login_required
@require_POST
def place_order(request):
    """Order one product, at the price of now."""
    product = get_object_or_404(Product, pk=request.POST.get("sku", ""))
    text = request.POST.get("quantity", "1")
    quantity = int(text) if text.isascii() and text.isdigit() and len(text) < 4 else 0
    if not 1 <= quantity <= MOST_PIECES:
        messages.error(request, f"Choose between 1 and {MOST_PIECES} pieces.")
        return redirect("catalogue")
    placed = Order.objects.create(user=request.user, due_cents=product.price_cents * quantity)
    OrderLine.objects.create(
        order=placed, product=product, name=product.name, quantity=quantity, price_cents=product.price_cents
    )
    return redirect("pay", placed.pk)


@login_required
def orders(request):
    """The buyer's own orders."""
    points = Points.objects.filter(user=request.user).aggregate(all=Sum("points"))["all"] or 0
    return render(request, "shop/orders.html", {"orders": Order.objects.filter(user=request.user), "points": points})


@login_required
def order(request, order_id):
    """One of them."""
    found = get_object_or_404(Order, pk=order_id, user=request.user)
    return render(request, "shop/order.html", {"order": found, "points": Points.objects.filter(order=found).first()})


@login_required
def pay(request, order_id):
    """The ways to pay it. A gateway's redirect comes back to this page as well, and the components finish it."""
    found = get_object_or_404(Order, pk=order_id, user=request.user)
    response = render(request, "shop/pay.html", {"order": found})
    response["Content-Security-Policy"] = _policy()
    return response


def _policy():
    """The shop's own sources, and those that the gateways' components name."""
    policy = {name: [source for source in sources if source != "'none'"] for name, sources in _OWN.items()}
    for directive, sources in csp.sources().items():
        policy[directive] = [*policy.get(directive, []), *sources]
    return "; ".join(f"{name} {' '.join(sources) or chr(39) + 'none' + chr(39)}" for name, sources in policy.items())
