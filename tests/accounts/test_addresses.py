"""Which e-mail addresses are the same: one folding, stored, unique and looked up, whatever the locale of the database (B12)."""

from __future__ import annotations

from importlib import import_module

import pytest
from django.apps import apps
from django.db import IntegrityError, connection, transaction

from accounts.addresses import fault, folded
from accounts.claims import ClaimsRefused, person_of
from accounts.models import User
from accounts.setup import ensure_folded_addresses
from tests.conftest import Person

PASSWORD = "nine quiet lanterns drift"
SAME = [
    ("ada@example.com", " ADA@Example.COM "), ("jos\u00e9@example.com", "JOSE\u0301@example.com"),
    ("a@b\u00fccher.example", "A@XN--BCHER-KVA.example"), ("a@b\u00fccher.example", "a@BU\u0308CHER.example"),
    ("\u03c3\u03c2@example.com", "\u03a3\u03a3@example.com"), ("\uff41da@example.com", "ada@example.com"),
]  # fmt: skip
OTHERS = [("adm\u0131n@example.com", "admin@example.com"), ("a.da@example.com", "ada@example.com"), ("\u0430da@x.y", "ada@x.y")]
TWINS = ["adm\u0131n@example.com", "ADM\u0130N@example.com", "\u017ftreet@example.com", "\u212aelvin@example.com",
         "\uff41da@example.com", "stra\u00dfe@example.com", "\u2460@example.com",
         "x@\uff45xample.com", "\ufb01x@example.com"]  # fmt: skip
HIDDEN = [
    "a\u200bda@example.com",
    "\u202eada@example.com",
    "ada@exa\u00admple.com",
    "\ufeffada@example.com",
    "a\u3164@example.com",
]


@pytest.mark.parametrize(("first", "second"), SAME)
def test_spellings_of_one_address_are_one(first: str, second: str) -> None:
    assert folded(first) == folded(second) == folded(folded(first))


@pytest.mark.parametrize(("first", "second"), OTHERS)
def test_other_addresses_are_others(first: str, second: str) -> None:
    assert folded(first) != folded(second)


@pytest.mark.parametrize("address", [*TWINS, *HIDDEN, "a" * 255 + "@x.y"])
def test_an_address_that_looks_like_anothers_is_neither_made_nor_believed(primary: None, admin: Person, address: str) -> None:
    assert fault(address)
    status, body = admin.post("rbac/users", {"email": address, "password": PASSWORD})
    assert status == 400 and body["error"].startswith("email: "), body
    with pytest.raises(ClaimsRefused):
        person_of({"oid": "o", "iat": 1, "preferred_username": address})


@pytest.mark.parametrize(
    "address", ["ada@example.com", "o'brien+x@example.com", "jos\u00e9@example.com", "\u5f20@b\u00fccher.example"]
)
def test_ordinary_addresses_are_taken_as_they_came(address: str) -> None:
    assert fault(address) == ""


def test_every_spelling_signs_in_as_the_same_person_and_is_taken(primary: None, admin: Person) -> None:
    made = admin.post("rbac/users", {"email": "Ada@B\u00fccher.example", "password": PASSWORD})[1]
    assert made["email"] == "Ada@B\u00fccher.example"
    for spelling in ("ADA@BU\u0308CHER.EXAMPLE", " ada@xn--bcher-kva.example"):
        status, opened = Person().post("auth/login", {"email": spelling, "password": PASSWORD})
        assert (status, opened["user"]["id"]) == (200, made["id"])
        assert admin.post("rbac/users", {"email": spelling.strip(), "password": PASSWORD})[0] == 409


def test_no_locale_has_a_say_in_who_somebody_is(primary: None) -> None:
    """With UPPER() the look-alike was found for the administrator in a database whose locale is C.UTF-8."""
    User.objects.create(email="admin@example.com", password="!")
    with connection.cursor() as cursor:
        cursor.execute("SELECT collname FROM pg_collation WHERE collname IN ('C.utf8', 'C.UTF-8', 'en_US.utf8', 'und-x-icu')")
        locales = [row[0] for row in cursor.fetchall()]
        cursor.execute("SELECT indexdef FROM pg_indexes WHERE indexname = 'one_account_of_a_folded_address'")
        assert "lower(" not in cursor.fetchone()[0].lower()
        for locale in [*locales, "C"]:
            query = f'SELECT count(*) FROM accounts_user WHERE email_folded = %s COLLATE "{locale}"'  # noqa: S608
            for address, found in ((folded("ADMIN@example.com"), 1), ("adm\u0131n@example.com", 0)):
                cursor.execute(query, [address])
                assert cursor.fetchone()[0] == found
    assert not {"UPPER(", "LOWER(", "LIKE"} & set(str(User.objects.filter(email_folded="x").query).upper().split())


def test_an_address_changed_with_save_is_folded_too(primary: None) -> None:
    user = User.objects.create(email="a@example.com", password="!")
    user.email = "B@example.com"
    user.save(update_fields=["email"])
    assert User.objects.by_email("b@EXAMPLE.com") == user and User.objects.by_email("a@example.com") is None
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.create(email="b@Example.com", password="!")


def test_the_start_looks_whether_every_address_is_under_its_own_form(primary: None, caplog: pytest.LogCaptureFixture) -> None:
    kept, moved = (User.objects.create(email=f"{name}@example.com", password="!") for name in ("kept", "moved"))
    User.objects.filter(id=moved.id).update(email="New@example.com")
    assert ensure_folded_addresses() == 1 and User.objects.by_email("new@example.com") == moved
    User.objects.filter(id=moved.id).update(email="KEPT@example.com")
    assert ensure_folded_addresses() == 1 and str(moved.id) in caplog.text
    assert User.objects.by_email("kept@example.com") == kept


def test_accounts_of_older_releases_are_folded_and_a_look_alike_loses_the_address(primary: None) -> None:
    alike = User.objects.create(email="\u212aelvin@example.com", password="!")
    owner = User.objects.create(email="x@example.com", password="!")
    User.objects.filter(id=alike.id).update(email_folded="")
    User.objects.filter(id=owner.id).update(email="kelvin@example.com", email_folded="x")
    import_module("accounts.migrations.0012_addresses_are_folded_here").fold(apps, None)
    assert User.objects.by_email("Kelvin@example.com") == owner
    alike.refresh_from_db()
    assert alike.email_folded.startswith(f"{alike.id}#")
    assert ensure_folded_addresses() == 0, "that one is known"
