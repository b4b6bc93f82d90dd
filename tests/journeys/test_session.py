"""The command signs in once and not at each call: an operator who looks every second is not locked out."""

from __future__ import annotations

from cli.stack.primary_client import SESSION_FILE
from tests.journeys.conftest import Town

MORE_THAN_A_MINUTE_ALLOWS = 15


def test_the_command_keeps_its_session_and_signs_in_anew_when_it_has_ended(town: Town) -> None:
    kept = town.stack.layout.password_file.with_name(SESSION_FILE)
    assert kept.stat().st_mode & 0o077 == 0
    tokens = set()
    for _ in range(MORE_THAN_A_MINUTE_ALLOWS):
        with town.stack.client() as primary:
            tokens.add(primary.token)
    assert tokens == {kept.read_text()}
    kept.write_text("mzv_a_session_that_has_ended")
    with town.stack.client() as primary:
        assert primary.get("auth/me")["email"] == "admin@mazevault.com"
        assert primary.token == kept.read_text() not in tokens
