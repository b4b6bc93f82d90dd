"""Twelve years of a Primary and its gateways, walked in steps of days: nothing ends for want of a successor (DESIGN §6)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from django.conf import settings

from common.clock import now as clock_now
from common.errors import PermissionRefused
from gateway_runtime.client import AnswerNotTrusted, Known
from gateways import enrollment, tokens
from gateways.channel import _refuse_unfit
from gateways.models import Gateway, GatewayCertificate, PrimaryKeyPair
from gateways.tokens import TokenWish
from protocol.bootstrap_token import unpack
from protocol.certificates import verify_chain
from tests.fakes.clockwork import Walker, World, is_client, is_server, openssl_takes, read
from tests.fakes.gateway import FakeGateway
from vault import generations, profiles
from vault.generations import LIVING, Standing
from vault.models import CertificateAuthority

pytestmark = pytest.mark.usefixtures("primary")
DAY, YEAR, STEP = timedelta(days=1), timedelta(days=365), timedelta(days=28)
YEARS = 12
SCOPES = ("root", "platform", "NPR", "PRO")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(settings, "MAZEVAULT", replace(settings.MAZEVAULT, tls_directory=tmp_path, ca_file=None))
    return World(tmp_path)


def enrolled(name: str, role: str, now: datetime) -> Walker:
    """As a gateway is enrolled at that time: with a token, whose pin is all it trusts before its first look."""
    made = FakeGateway(name, "NPR", role)
    token = tokens.create_token(
        TokenWish(name=name, environment="NPR", role=role, server_names=(f"{name}.example",)),
        actor="user:test", address="127.0.0.1", now=now,
    ).text  # fmt: skip
    found = enrollment.register(made.registration(token), address="127.0.0.1", now=now)
    walker = Walker(found.gateway, Known((unpack(token).pin,)), "", "", "")
    walker.take(found.certificate, now)
    return walker


def roots_of(document: dict[str, str]) -> list:
    return read(document["roots"])


class TestTwelveYears:
    def test_everything_is_followed_in_time_and_a_sleeper_is_told_what_to_do(self, world: World) -> None:
        start = clock_now()
        first, second = enrolled("gw-npr-primary", "primary", start), enrolled("gw-npr-dr", "dr-standby", start)
        asleep = (start + 1600 * DAY, start + 1600 * DAY + YEAR)  # all through the announcement and the change of the root
        moment, standings, seen = start, Counter[tuple[str, str]](), 0
        while moment < start + YEARS * YEAR:
            document = world.step(moment)
            self.check_the_primary(world, document, moment)
            if len(roots_of(document)) != seen:
                seen = self.check_with_openssl(first, world, document, moment)
            standings.update(CertificateAuthority.objects.values_list("scope", "standing"))
            for gateway in (first, second):
                if gateway is second and asleep[0] <= moment < asleep[1]:
                    continue
                if gateway is second and gateway.ends() <= moment:
                    second = gateway = self.come_back(gateway, document, moment)
                gateway.look(document, moment)
                gateway.step(moment)
                self.check_a_gateway(gateway, world, document, moment)
            moment += STEP
        assert all(standings[scope, standing] for scope in SCOPES for standing in ("next", "current", "retired", "ended"))
        assert second.row.pk == first.row.pk or second.row.name == "gw-npr-dr", "the sleeper is the same gateway again"
        self.check_what_is_kept()

    def check_with_openssl(self, gateway: Walker, world: World, document: dict[str, str], now: datetime) -> int:
        """On a day on which the set of roots is another one: with ca.crt of that day, and for who copied it the day before."""
        chains = ((world.folder / "server.crt").read_text(), gateway.server + gateway.chain)
        for chain in chains if gateway.ends() > now else chains[:1]:
            for roots in (document["roots"], document["root"]):
                assert openssl_takes(chain, roots, now, world.folder), now
        return len(roots_of(document))

    def come_back(self, sleeper: Walker, document: dict[str, str], now: datetime) -> Walker:
        """It can follow the roots, but its certificate ended: the refusal names the fix, and the fix works."""
        assert sleeper.look(document, now).roots == document["roots"], "its root is trusted still, and vouches for the next one"
        row = GatewayCertificate.objects.select_related("gateway").get(pem=sleeper.certificate)
        with pytest.raises(PermissionRefused, match="create a bootstrap token for this gateway") as refused:
            _refuse_unfit(row, now)
        assert refused.value.code == "CERTIFICATE_EXPIRED"
        return enrolled("gw-npr-dr", "dr-standby", now)

    def check_the_primary(self, world: World, document: dict[str, str], now: datetime) -> None:
        living = list(CertificateAuthority.objects.filter(standing__in=LIVING))
        for scope in SCOPES:
            signs = [row for row in living if row.scope == scope and row.standing == Standing.CURRENT]
            assert len(signs) == 1, (scope, now)
            assert signs[0].not_after - now >= generations.rules_of(scope).needs, f"{scope} gives no whole lives at {now}"
            assert sum(row.scope == scope for row in living) <= 3
        roots = roots_of(document)
        assert all(root.not_valid_before_utc <= now < root.not_valid_after_utc for root in roots)
        listener = world.listener()
        assert listener[0].not_valid_after_utc - listener[0].not_valid_before_utc >= profiles.PLATFORM_SERVER.life
        for root in roots:  # whoever knows one root only, the oldest or the newest, can follow
            is_server(listener, "localhost", [root], now)
        for certificate in (document["channel_certificate"], document["next_channel_certificate"]):
            if certificate:
                verify_chain(certificate, document["intermediates"], document["root"], now, "channel")
        assert (world.folder / "ca.crt").read_text() == document["roots"]

    def check_a_gateway(self, gateway: Walker, world: World, document: dict[str, str], now: datetime) -> None:
        is_client(gateway.certificate, gateway.chain, roots_of(document), now)
        is_client(gateway.certificate, gateway.chain, world.trusted_clients(now), now)
        is_server(read(gateway.server + gateway.chain), f"{gateway.row.name}.example", roots_of(document), now)
        assert min(gateway.lives) >= profiles.GATEWAY_CLIENT.life
        assert gateway.trust is not None and len(gateway.known.pins) == len(roots_of(document))

    def check_what_is_kept(self) -> None:
        """A handful of rows for each authority in twelve years; no key of what has ended."""
        for scope in SCOPES:
            assert CertificateAuthority.objects.filter(scope=scope).count() <= 5, scope
        signing = PrimaryKeyPair.objects.filter(purpose=PrimaryKeyPair.SIGNING)
        life = signing.first()
        assert life is not None and signing.count() <= 1 + YEARS * YEAR / (generations.CHANNEL_LIFE - 180 * DAY) + 1
        assert signing.filter(sealed_private_key__isnull=False).count() <= 2
        assert all(row.not_after - row.announced_at >= profiles.PRIMARY_CHANNEL.life - DAY for row in signing)
        assert not CertificateAuthority.objects.filter(standing=Standing.ENDED, sealed_key__isnull=False).exists()
        assert not CertificateAuthority.objects.filter(standing=Standing.ENDED, not_after__gt=clock_now() + YEARS * YEAR).exists()


class TestSleepers:
    def test_eighty_days_of_sleep_cost_nothing_whatever_changed_meanwhile(self, world: World) -> None:
        """The certificate still lives, so it is renewed; through each change of the root and of the environment's authority."""
        start = clock_now()
        gateway = enrolled("gw-npr-primary", "primary", start)
        for day in range(0, 2000, 80):
            moment = start + day * DAY
            document = world.step(moment)
            gateway.look(document, moment)
            is_client(gateway.certificate, gateway.chain, world.trusted_clients(moment), moment)
            gateway.renew(moment)
        signs = CertificateAuthority.objects.get(scope="root", standing=Standing.CURRENT)
        assert signs.generation == 2 and len(gateway.known.pins) == 2

    def test_one_whose_root_is_gone_is_told_to_enrol_anew(self, world: World) -> None:
        start = clock_now()
        gateway = enrolled("gw-npr-primary", "primary", start)
        gateway.look(world.step(start), start)
        for year in range(1, 12):
            document = world.step(start + year * YEAR)
        with pytest.raises(AnswerNotTrusted, match="create a bootstrap token for this gateway"):
            gateway.look(document, start + 11 * YEAR)

    def test_a_primary_that_was_off_for_eleven_years_stands_up_again(self, world: World) -> None:
        start = clock_now()
        world.step(start)
        late = start + 11 * YEAR
        document = world.step(late)
        TestTwelveYears().check_the_primary(world, document, late)
        assert [root.not_valid_before_utc > start + 10 * YEAR for root in roots_of(document)] == [True]
        again = enrolled("gw-npr-primary", "primary", late)
        again.look(document, late)
        assert Gateway.objects.filter(name="gw-npr-primary").count() == 1
