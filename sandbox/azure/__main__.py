"""`python -m sandbox.azure --port 9447 --dir var/sandbox`: serve until TERM or Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from sandbox.azure import certificates, server


def main(arguments: Sequence[str]) -> int:
    wish = _parser().parse_args(arguments)
    if (wish.certificate_file is None) != (wish.key_file is None):
        print("error: give both --certificate-file and --key-file, or neither", file=sys.stderr)
        return 1
    context = certificates.given_context(wish.certificate_file, wish.key_file) if wish.key_file else None
    try:
        made, sandbox = server.make(wish.dir, wish.port, wish.redirect_uri, context)
    except OSError as error:
        print(f"error: port {wish.port} cannot be listened on: {error.strerror}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=made.shutdown).start())
    registration = sandbox.world.directory.registration
    print(f"Azure sandbox at {sandbox.base_url}, CA file {sandbox.ca_file}")
    print(f"tenant {sandbox.world.directory.tenant_id}, application {registration.client_id} ({registration.name})", flush=True)
    made.serve_forever(poll_interval=0.2)
    made.server_close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sandbox.azure", description="A local Azure to try the product against.")
    parser.add_argument("--port", type=int, default=9447, help="for HTTPS, and for the metadata service in plain HTTP")
    parser.add_argument("--dir", type=Path, required=True, help="folder for its CA, keys and the client secret")
    parser.add_argument("--redirect-uri", action="append", default=[], help="a registered redirect URI; may be repeated")
    parser.add_argument("--certificate-file", type=Path, help="PEM; otherwise the sandbox makes its own CA and certificate")
    parser.add_argument("--key-file", type=Path, help="PEM, of the certificate")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
