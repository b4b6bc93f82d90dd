"""The export of an audit trail: a folder of plain files that `protocol.audit_evidence` checks without any database.

manifest.json (node, chains, keys), statements.jsonl, countersignatures.jsonl, chains/<name>.jsonl or .csv. Each line of a chain
holds its exact text; in the CSV form the columns repeat it for people and must agree with it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from protocol.audit import ENTRY_FIELDS, Link, Signed
from protocol.audit_evidence import Countersignature, Evidence, Keys

FORMAT = 1
COLUMNS = ("position", "hash", *ENTRY_FIELDS, "text")
FORMATS = ("jsonl", "csv")
_LONGEST_FIELD = 1 << 20


def write_export(folder: Path, evidence: Evidence, form: str = "jsonl") -> dict[str, int]:
    """Write everything into a new or empty folder; returns how many entries each chain has. Raises `ValueError`, `OSError`."""
    if form not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}")
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; name a new folder")
    (folder / "chains").mkdir(parents=True, exist_ok=True)
    write = _write_csv if form == "csv" else _write_jsonl
    counts = {name: write(folder / "chains" / f"{name}.{form}", links()) for name, links in evidence.chains.items()}
    _write_objects(folder / "statements.jsonl", map(asdict, evidence.statements))
    _write_objects(folder / "countersignatures.jsonl", map(asdict, evidence.countersignatures))
    manifest = {"format": FORMAT, "node": evidence.node, "chains": {name: f"chains/{name}.{form}" for name in counts},
                "entries": counts, "keys": asdict(evidence.keys), "hidden": evidence.hidden,
                "made_at": evidence.made_at}  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return counts


def read_export(path: Path) -> Evidence:
    """The evidence in an export folder, or in one chain file alone (named by its chain). Raises `ValueError` with a sentence."""
    if path.is_file():
        return Evidence(node=path.name, chains={path.stem: partial(_read_links, path)})
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        keys = {**manifest["keys"], "channel": tuple(manifest["keys"]["channel"])}
        return Evidence(
            node=str(manifest["node"]),
            chains={str(name): partial(_read_links, path / file) for name, file in manifest["chains"].items()},
            statements=tuple(Signed(**one) for one in _read_objects(path / "statements.jsonl")),
            countersignatures=tuple(Countersignature(**one) for one in _read_objects(path / "countersignatures.jsonl")),
            keys=Keys(**keys),
            hidden=int(manifest["hidden"]),
            made_at=str(manifest["made_at"]),
        )
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is no export of an audit trail: {error}") from error


def columns_of(link: Link) -> dict[str, Any]:
    """What people read of a link: its entry's fields beside position, hash and exact text."""
    return {"position": link.position, "hash": link.hash, **json.loads(link.text), "text": link.text}


def cell(value: Any) -> str:
    """A CSV cell: nothing for null. A value that a spreadsheet would run as a formula gets a quote before it."""
    text = "" if value is None else str(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _write_jsonl(path: Path, links: Iterable[Link]) -> int:
    return _write_objects(path, ({"position": one.position, "hash": one.hash, "text": one.text} for one in links))


def _write_objects(path: Path, objects: Iterable[dict[str, Any]]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for count, one in enumerate(objects, start=1):  # noqa: B007  the last number is the result
            file.write(json.dumps(one, separators=(",", ":")) + "\n")
    return count


def _write_csv(path: Path, links: Iterable[Link]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for count, link in enumerate(links, start=1):  # noqa: B007  the last number is the result
            rows.writerow(cell(columns_of(link)[name]) for name in COLUMNS)
    return count


def _read_objects(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield dict(json.loads(line))
            except (ValueError, TypeError) as error:
                raise ValueError(f"line {number} of {path.name} is not a JSON object") from error


def _read_links(path: Path) -> Iterator[Link]:
    rows = _read_csv(path) if path.suffix == ".csv" else _read_objects(path)
    try:
        for number, row in enumerate(rows, start=1):
            yield _link(row, f"entry {number} of {path.name}")
    except (OSError, csv.Error) as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error


def _link(row: dict[str, Any], where: str) -> Link:
    try:
        position, text, digest = row["position"], row["text"], row["hash"]
        if isinstance(position, int) and isinstance(text, str) and isinstance(digest, str):
            return Link(position, text, digest)
    except KeyError as error:
        raise ValueError(f"{where} has no {error}") from error
    raise ValueError(f"{where} has fields of the wrong kind")


def _read_csv(path: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(_LONGEST_FIELD)
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            link = Link(int(row.get("position") or 0), row.get("text") or "", row.get("hash") or "")
            told = columns_of(link)
            differing = [name for name in COLUMNS if row.get(name) != cell(told.get(name))]
            if differing:
                raise ValueError(f"position {link.position} of {path.name}: the column {differing[0]} is not what the text says")
            yield {"position": link.position, "text": link.text, "hash": link.hash}
