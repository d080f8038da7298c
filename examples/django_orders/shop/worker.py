"""What `localq shop.worker` imports: Django, set up, and the module `tasks` of every installed app."""

import os

import django
from django.utils.module_loading import autodiscover_modules

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
django.setup()
autodiscover_modules("tasks")
