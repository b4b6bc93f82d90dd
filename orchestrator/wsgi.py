"""The WSGI application of a node."""

import os

from django.core.wsgi import get_wsgi_application

from orchestrator.mode import settings_module

os.environ.setdefault("DJANGO_SETTINGS_MODULE", settings_module(os.environ))
application = get_wsgi_application()
