"""Routes of this app."""

urlpatterns: list = []  # filled below
