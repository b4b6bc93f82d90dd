"""A gateway follows the Primary from one root to the next, and nobody leads it to a third (DESIGN §6)."""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.db import transaction

from common.clock import now
from gateway_runtime import identity as identities
from gateway_runtime.client import AnswerNotTrusted, Known, PrimaryRefused, PrimaryUnreachable, Trust, checked_trust
from gateway_runtime.identity import Identity, Keys
from gateways import channel_keys, identity
from protocol.trust import MOST_ROOTS, RootSet, RootSetRefused, pins_of, sign_root_set
from tests.gateway_runtime.test_client import Line, line  # noqa: F401  a fixture
from vault import authorities, succession
from vault.generations import ROOT, Standing
from vault.models import CertificateAuthority

UNSHOWN = f"sha256:{'0' * 64}"
pytestmark = pytest.mark.usefixtures("primary")


def announce_root() -> None:
    with transaction.atomic():
        succession.announce(ROOT, now(), "user:test", "tried")
    channel_keys.forget()


def promote_root() -> None:
    with transaction.atomic():
        succession.promote(ROOT, now(), "user:test", "tried")


def end_first_root() -> None:
    CertificateAuthority.objects.filter(scope=ROOT, generation=1).update(standing=Standing.ENDED)


def document() -> dict[str, str]:
    return asdict(identity.trust_document())


def believed(shown: dict[str, str], known: Known) -> Trust:
    return checked_trust(shown, known, now())


def learned(trust: Trust) -> Known:
    assert trust.revision is not None
    return Known(pins_of(trust.roots), trust.revision)


class TestFollowing:
    def test_the_next_root_is_learned_under_the_present_one_and_carries_alone_later(self) -> None:
        first = Known((authorities.pin(),))
        announce_root()
        both = learned(believed(document(), first))
        assert len(both.pins) == 2
        promote_root()
        end_first_root()
        only = learned(believed(document(), both))
        assert only.pins == (authorities.pin(),) and only.revision > both.revision
        with pytest.raises(AnswerNotTrusted, match="create a bootstrap token"):
            believed(document(), first)

    def test_one_that_knows_the_newest_root_only_trusts_the_older_ones_too(self) -> None:
        announce_root()
        promote_root()
        assert len(learned(believed(document(), Known((authorities.pin(),)))).pins) == 2

    def test_an_earlier_gateway_that_knows_one_root_and_reads_one_field_goes_on(self) -> None:
        """It compares the field `root` with its pin; the oldest trusted root stands there."""
        pin = authorities.pin()
        announce_root()
        promote_root()
        old = {name: text for name, text in document().items() if name not in ("roots", "root_set")}
        trust = believed(old, Known((pin,)))
        assert pins_of(trust.roots) == (pin,) and trust.revision is None


class TestForgers:
    def test_a_root_that_is_only_shown_is_not_trusted(self) -> None:
        announce_root()
        shown, known = document(), Known((authorities.pin(),))
        shown["root_set"] = sign_root_set(RootSet(9, list(pins_of(shown["roots"]))), Ed25519PrivateKey.generate())
        with pytest.raises(RootSetRefused):
            believed(shown, known)

    def test_a_document_without_the_statement_takes_no_root_away(self, line: Line) -> None:  # noqa: F811
        announce_root()
        line.ask()
        assert len(line.channel._known.pins) == 2
        stripped = {name: text for name, text in document().items() if name != "root_set"}
        line.wire.change_trust = lambda answer: httpx.Response(200, content=json.dumps(stripped), request=answer.request)
        line.channel.forget_trust()
        line.ask()
        assert len(line.channel._known.pins) == 2 and line.channel.trusted()[1] is None

    def test_an_old_statement_brings_no_root_back(self) -> None:
        announce_root()
        promote_root()
        before = document()
        known = learned(believed(before, Known((authorities.pin(),))))
        end_first_root()
        known = learned(believed(document(), known))
        trust = believed(before, known)
        assert trust.revision is None and pins_of(trust.roots) == known.pins == (authorities.pin(),)

    @pytest.mark.parametrize("pins", [[], [UNSHOWN], ["x"] * (MOST_ROOTS + 1)], ids=["none", "hidden", "many"])
    def test_a_statement_that_makes_no_sense_is_refused(self, pins: list[str]) -> None:
        shown = document()
        shown["root_set"] = sign_root_set(RootSet(9, pins), identity.signing_key())
        with pytest.raises(RootSetRefused):
            believed(shown, Known((authorities.pin(),)))

    @pytest.mark.parametrize("text", ["", "{}", "[]", '{"body":"?","signature":"x"}', '{"body":"e30","signature":"e30"}'])
    def test_what_is_no_statement_is_no_answer(self, line: Line, text: str) -> None:  # noqa: F811
        shown = document() | {"root_set": text}
        line.wire.change_trust = lambda answer: httpx.Response(200, content=json.dumps(shown), request=answer.request)
        with pytest.raises(PrimaryUnreachable):
            line.ask()


class TestStateFile:
    def identity(self, **more: Any) -> Identity:
        facts = {"gateway_id": "g", "name": "gw", "environment": "NPR", "role": "primary", "generation": uuid.uuid4(),
                 "token_id": "t", "urls": ("https://localhost",), "pin": authorities.pin(),
                 "root": authorities.root_certificate(), "certificate": "c", "chain": "h", "server_certificate": "s",
                 "keys": Keys.generate()}  # fmt: skip
        return Identity(**{**facts, **more})

    def test_one_of_an_earlier_version_is_read_and_has_one_pin(self, tmp_path: Path) -> None:
        file, key = tmp_path / "state.json", b"1" * 32
        identities.store(file, self.identity(), key)
        stored = json.loads(file.read_text())
        del stored["roots_revision"]
        file.write_text(json.dumps(stored))
        found = identities.load(file, key)
        assert found is not None and (found.pins, found.roots_revision) == ((authorities.pin(),), 0)
        assert believed(document(), Known(found.pins, found.roots_revision)).revision is not None

    def test_before_the_first_answer_the_pin_of_the_token_is_all(self) -> None:
        assert self.identity(root="", pin="sha256:x").pins == ("sha256:x",)

    def test_the_roots_of_the_set_are_kept_with_its_revision(self, tmp_path: Path) -> None:
        announce_root()
        file, key, roots = tmp_path / "state.json", b"1" * 32, "".join(authorities.trusted_roots())
        identities.store(file, self.identity(root=roots, roots_revision=7), key)
        found = identities.load(file, key)
        assert found is not None and len(found.pins) == 2 and found.roots_revision == 7


class TestEndedCertificate:
    def test_a_gateway_whose_certificate_ended_says_so_and_what_helps(
        self,
        line: Line,  # noqa: F811
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The handshake is broken off without a sentence."""

        def broken(*_: Any, **__: Any) -> httpx.Response:
            raise httpx.ReadError("tlsv13 alert certificate expired")

        line.ask()
        monkeypatch.setattr(line.wire, "post", broken)
        line.channel._ends = now() + timedelta(hours=1)
        with pytest.raises(PrimaryUnreachable):
            line.ask()
        line.channel._ends = now() - timedelta(days=300)
        with pytest.raises(PrimaryRefused, match="create a bootstrap token for this gateway") as refused:
            line.ask()
        assert refused.value.code == "CERTIFICATE_EXPIRED"
