from django.db import models


class Order(models.Model):
    item = models.CharField(max_length=100)
    quantity = models.PositiveIntegerField()
    label = models.CharField(max_length=200, blank=True)
    packed_at = models.DateTimeField(null=True)
