"""The reference page shows the API without asking anybody else for anything."""

from __future__ import annotations

import re

import pytest
from django.test import Client


@pytest.fixture
def client() -> Client:
    return Client()


def test_every_file_the_page_names_is_served_by_this_node(client: Client) -> None:
    page = client.get("/api/v1/docs")
    assert page.status_code == 200
    named = re.findall(r'(?:src|href)="([^"]+)"', page.content.decode())
    assert len(named) == 4
    for path in named:
        assert path.startswith("/api/v1/docs/")
        answer = client.get(path)
        assert answer.status_code == 200 and answer.content
        assert answer["X-Content-Type-Options"] == "nosniff"
    assert "'self'" in page["Content-Security-Policy"] and "http" not in page["Content-Security-Policy"]


@pytest.mark.parametrize("name", ["..%2f__init__.py", "index.html", "swagger-ui-bundle.js.map", "%2e%2e/own.js"])
def test_only_listed_files_are_served(client: Client, name: str) -> None:
    assert client.get(f"/api/v1/docs/{name}").status_code == 404


def test_the_page_is_for_reading(client: Client) -> None:
    assert client.post("/api/v1/docs").status_code == 405
    assert client.delete("/api/v1/docs/own.js").status_code == 405
