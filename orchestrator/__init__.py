"""Composition root: mode, environment, settings, routes, server, jobs. No rules of its own."""
