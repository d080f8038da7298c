import json
from functools import partial

from django.db import IntegrityError, transaction
from django.http import JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_GET, require_POST

from .models import Order
from .tasks import pack


@require_POST
def create(request):
    """Take orders, all or none of them: [{"item": "tea", "quantity": 2}, ...]"""
    orders = []
    try:
        with transaction.atomic():
            for wanted in json.loads(request.body):
                order = Order.objects.create(item=wanted["item"], quantity=wanted["quantity"])
                # Sent now, it could reach a worker before the order is there to be found, or
                # although it never will be.
                transaction.on_commit(partial(pack.send, order.pk))
                orders.append(order.pk)
    except (IntegrityError, KeyError, OverflowError, TypeError, ValueError):
        return JsonResponse({"error": "not a list of orders"}, status=400)
    return JsonResponse({"orders": orders}, status=202)


@require_GET
def show(request, pk):
    order = get_object_or_404(Order, pk=pk)
    return JsonResponse({"item": order.item, "label": order.label, "packed_at": order.packed_at})
