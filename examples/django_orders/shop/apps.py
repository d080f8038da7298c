from django.apps import AppConfig
from django.conf import settings
from django.db import close_old_connections, reset_queries

import localq


class DatabaseConnections(localq.Middleware):
    """Does around a message what Django does around a request: a connection that is too old or broken is
    closed, and the next query opens another."""

    def before_process_message(self, broker, message):
        reset_queries()
        close_old_connections()

    def after_process_message(self, broker, message, *, result=None, exception=None):
        close_old_connections()

    def after_skip_message(self, broker, message):
        close_old_connections()


class ShopConfig(AppConfig):
    name = "shop"

    def ready(self):
        broker = localq.connect(settings.LOCALQ_URL)
        broker.add_middleware(DatabaseConnections())
