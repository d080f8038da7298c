from django.utils import timezone

import localq

from .models import Order


@localq.actor(max_retries=5)
def pack(order_id):
    # The message carries the key, not the order, so this is what the database says now. It may run
    # twice: an order that is packed stays as it is.
    order = Order.objects.get(pk=order_id)
    if order.packed_at is None:
        order.label = f"{order.quantity} x {order.item}"
        order.packed_at = timezone.now()
        order.save(update_fields=["label", "packed_at"])
