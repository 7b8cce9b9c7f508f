"""The shop's tables in Django's admin. Payments, refunds and stock that was sold are paidonce's to change."""

from django.contrib import admin

from shop.models import Order, OrderLine, Points, Product


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):
    """Products and their stock."""

    list_display = ("name", "sku", "price", "stock")


class LineInline(admin.TabularInline):
    """The products of an order."""

    model = OrderLine
    extra = 0
    can_delete = False
    readonly_fields = ("product", "name", "quantity", "price_cents")

    def has_add_permission(self, request, obj=None):
        return False


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    """Orders, to look at: a state set by hand would contradict the payments."""

    list_display = ("number", "user", "status", "refunded", "total", "created_at")
    list_filter = ("status", "refunded")
    search_fields = ("id", "user__username")
    inlines = (LineInline,)
    readonly_fields = ("id", "user", "status", "refunded", "due_cents", "created_at", "expires_at", "paid_at")

    def has_add_permission(self, request):
        return False

    def has_delete_permission(self, request, obj=None):
        return False


@admin.register(Points)
class PointsAdmin(admin.ModelAdmin):
    """Who collected what."""

    list_display = ("order", "user", "points")

    def has_add_permission(self, request):
        return False

    def has_change_permission(self, request, obj=None):
        return False
