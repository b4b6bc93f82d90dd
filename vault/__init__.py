"""Secrets and certificates of projects: encryption at rest and certificate authorities."""
