"""Settings for django-hordak alone, on the benchmark's server."""

import os

SECRET_KEY = "benchmark"  # of nothing
USE_TZ = True
TIME_ZONE = "UTC"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "mptt", "hordak"]
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", **__import__("json").loads(os.environ["BENCH_SERVER"])}}
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
DEFAULT_CURRENCY = "BRL"
CURRENCIES = ["BRL"]
HORDAK_DECIMAL_PLACES = 2
