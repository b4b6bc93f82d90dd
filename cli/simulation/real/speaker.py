"""What a light gateway says: it enrols with a real token and speaks the real sealed channel, made from `protocol` alone."""

from __future__ import annotations

import base64
import itertools
import json
import os
import ssl
import tempfile
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from msgspec import structs

from cli.simulation.real.http import request
from protocol import messages, paths
from protocol.bootstrap_token import unpack
from protocol.certificates import build_csr, x5t_s256
from protocol.channel_sessions import IN_SESSION, ChannelSession, open_session
from protocol.envelope import (
    CONTENT_TYPE,
    SESSION_SUITE,
    SUITE,
    Header,
    decode_encryption_key,
    encode_public_key,
    open_parcel,
    parse,
    seal,
)
from protocol.vocabulary import Assignment


class Speaker:
    """One gateway with its keys. `trust` is the Primary's trust document as JSON, `skew` the seconds its clock is off."""

    def __init__(self, trust: dict[str, Any], environment: str) -> None:
        signed = json.loads(trust["recipients"])["body"]
        recipient = json.loads(base64.urlsafe_b64decode(signed + "=" * (-len(signed) % 4)))["keys"][0]
        self._recipient, self._kid = decode_encryption_key(recipient["public_key"]), recipient["kid"]
        self.environment, self.epoch, self.role = environment, 0, Assignment.ACTIVE
        self._signing, self._encryption = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
        self._client, self._server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        self._generation, self._instance = str(uuid.uuid4()), str(uuid.uuid4())
        self.skew = 0.0
        self._numbers = itertools.count(1)
        self._session: ChannelSession | None = None
        self.id = self._certificate = self._thumbprint = ""
        self.der = b""

    def registration(self, token: str) -> bytes:
        """The request that redeems a token."""
        body = messages.Register(
            token=token, csr=build_csr(self._client, "light"), server_csr=build_csr(self._server, "light"),
            signing_key=encode_public_key(self._signing.public_key()),
            encryption_key=encode_public_key(self._encryption.public_key()), generation=self._generation, version="1.0.0",
        )  # fmt: skip
        return self._post(paths.REGISTER, body, sender=f"token:{unpack(token).id}", environment="")

    def take(self, answer: bytes) -> None:
        """Become what the answer to the registration says."""
        found = messages.decode(open_parcel(parse(answer), self._encryption), messages.Registered)
        self.id, self._certificate = found.gateway_id, found.certificate
        loaded = x509.load_pem_x509_certificate(found.certificate.encode())
        self.der = loaded.public_bytes(Encoding.DER)
        self._thumbprint = x5t_s256(self.der)
        self._chain = found.chain

    def context(self, root: str) -> ssl.SSLContext:
        """TLS with this gateway's client certificate."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.minimum_version = ssl.TLSVersion.TLSv1_3
        made.load_verify_locations(cadata=root)
        key = self._client.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        handle, name = tempfile.mkstemp()
        try:
            os.write(handle, (self._certificate + self._chain + key).encode())
            os.close(handle)
            made.load_cert_chain(name)
        finally:
            Path(name).unlink()
        return made

    def heartbeat(self, lease_seconds_left: float = 30.0) -> bytes:
        now = self._wall()
        return self._post(
            paths.HEARTBEAT,
            messages.Heartbeat(
                version="1.0.0", reported_role=self.role, epoch=self.epoch, lease_seconds_left=lease_seconds_left,
                started_at=(now - timedelta(minutes=5)).isoformat(), sent_at=now.isoformat(),
                certificate_expires_at=(now + timedelta(days=80)).isoformat(), database=messages.Probe(ok=True, latency_ms=1),
                cache=messages.Probe(ok=True, latency_ms=1), primary_latency_p95_ms=5.0, replica_complete=True,
            ),
        )  # fmt: skip

    def lease(self) -> bytes:
        return self._post(paths.LEASE_RENEW, messages.RenewLease(epoch=self.epoch, sent_at=self._wall().isoformat()))

    def directive(self, after: str = "", wait: float = 0.0) -> bytes:
        return self._post(paths.DIRECTIVE, messages.AskDirective(after=after, wait=wait))

    def opened(self, answer: bytes, kind: type[messages.Message]) -> Any:
        parcel = parse(answer)
        if parcel.is_in_session and self._session is not None:
            return messages.decode(self._session.open_answer(parcel), kind)
        return messages.decode(open_parcel(parcel, self._encryption), kind)

    def _wall(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.skew)

    def _post(self, path: str, body: messages.Message, *, sender: str = "", environment: str | None = None) -> bytes:
        return request("POST", path, self.sealed(path, body, sender=sender, environment=environment), kind=CONTENT_TYPE)

    def sealed(self, path: str, body: messages.Message, *, sender: str = "", environment: str | None = None) -> bytes:
        """The message as it travels, without a request around it."""
        facts: dict[str, Any] = {
            "suite": SUITE, "direction": "up", "sender": sender or self.id, "certificate": self._thumbprint,
            "recipient": self._kid, "environment": self.environment if environment is None else environment,
            "epoch": 0 if sender else self.epoch, "generation": self._generation, "message_id": str(uuid.uuid4()),
            "sequence": next(self._numbers), "method": "POST", "path": path, "request_hash": "",
            "issued_at": int(time.time() + self.skew),
            "instance": self._instance,
        }  # fmt: skip
        header = Header(**{name: facts[name] for name in Header.__struct_fields__ if name in facts})
        if path in IN_SESSION:
            if self._session is None or not self._session.is_good_at(header.issued_at):
                self._session = open_session(header, self._recipient, self._signing)
            return self._session.seal_request(structs.replace(header, suite=SESSION_SUITE), messages.encode(body))
        return seal(header, messages.encode(body), self._recipient, self._signing)
