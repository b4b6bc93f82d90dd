"""Read the schema of the azurerm provider out of its generated CDK bindings.

The bindings (the package `cdktn-provider-azurerm`, MPL-2.0) are generated from the provider's own schema: each attribute carries
a comment with what is computed, optional and required, and there is a class for each nested block. This reads them for the types
that our configuration uses and prints JSON in the shape of `terraform providers schema`. Checks of values (enumerations, lengths,
patterns) live in the provider's code and are not in there.

    python extract_schema.py FOLDER/package/lib > azurerm-schema.json
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

RESOURCES = (
    "container-registry", "federated-identity-credential", "key-vault", "key-vault-secret", "kubernetes-cluster",
    "log-analytics-workspace", "monitor-data-collection-rule", "monitor-data-collection-rule-association",
    "monitor-diagnostic-setting", "network-security-group", "network-security-rule", "postgresql-flexible-server",
    "postgresql-flexible-server-database", "private-dns-zone",
    "private-dns-zone-virtual-network-link", "private-endpoint", "redis-cache", "resource-group", "role-assignment", "subnet",
    "subnet-network-security-group-association", "user-assigned-identity", "virtual-network",
)  # fmt: skip
DATA = ("data-azurerm-client-config", "data-azurerm-user-assigned-identity")

# How a getter reads its value says the attribute's type; the first that fits.
GETTERS: tuple[tuple[str, Any], ...] = (
    (r"Fn\.tolist\(this\.getListAttribute", ["set", "string"]),
    (r"tolist\(.*getNumberList", ["set", "number"]),
    (r"getListAttribute", ["list", "string"]),
    (r"getNumberListAttribute", ["list", "number"]),
    (r"getStringMapAttribute|StringMap\(", ["map", "string"]),
    (r"getBooleanMapAttribute", ["map", "bool"]),
    (r"getStringAttribute", "string"),
    (r"getNumberAttribute", "number"),
    (r"getBooleanAttribute", "bool"),
)
SIMPLE = {"string": "string", "boolean": "bool", "number": "number"}
NESTING = {"struct": "single", "list": "list", "set": "set", "map": "map"}

Flags = dict[str, tuple[bool, str, str]]


class Bindings:
    """One generated file: its classes with their attributes, and what its struct functions say of blocks."""

    def __init__(self, source: str) -> None:
        source = re.sub(r"//# sourceMappingURL.*", "", source)
        self._tables = {
            found.start(): _flags(found.group(1)) for found in re.finditer(r"const attrs = \{(.*?)\n +\};\n", source, re.S)
        }
        self.classes = dict(_classes(source))
        self.structs: dict[str, Flags] = {}
        for found in re.finditer(r"function (\w+)ToHclTerraform\(struct\)", source):
            following = [place for place in self._tables if place > found.start()]
            if following:
                self.structs[found.group(1).lower()] = self._tables[min(following)]
        of_class = [
            place for place in self._tables
            if source.rfind("synthesizeHclAttributes", 0, place) > source.rfind("function ", 0, place)
        ]  # fmt: skip
        self.top: Flags = self._tables[of_class[-1]] if of_class else {}
        named = re.search(r'static tfResourceType = "(\w+)"', source)
        self.type = named.group(1) if named else ""

    def main(self) -> dict[str, dict[str, Any]]:
        return next(
            attributes for base, attributes in self.classes.values() if base in ("TerraformResource", "TerraformDataSource")
        )


def _flags(text: str) -> Flags:
    """Of each attribute: whether it is a block, its nesting, its kind."""
    row = r'\n\s+(\w+): \{\n\s+value: .*?,\n\s+isBlock: (true|false),\n\s+type: "(\w+)",\n\s+storageClassType: "(\w+)"'
    return {name: (block == "true", nesting, kind) for name, block, nesting, kind in re.findall(row, text, re.S)}


def _classes(source: str) -> list[tuple[str, tuple[str, dict[str, dict[str, Any]]]]]:
    starts = [
        (found.start(), found.group(1), found.group(2)) for found in re.finditer(r"class (\w+) extends cdktn\.(\w+)", source)
    ]
    ends = [start for start, _, _ in starts[1:]] + [len(source)]
    return [(name, (base, _attributes(source[start:end]))) for (start, name, base), end in zip(starts, ends, strict=True)]


def _attributes(body: str) -> dict[str, dict[str, Any]]:
    row = r"// (\w+) - computed: (\w+), optional: (\w+), required: (\w+)\n(.*?)(?=\n    // \w+ - computed|\n}\n|\Z)"
    found = {}
    for name, computed, optional, required, code in re.findall(row, body, re.S):
        made = re.search(r'= new (\w+)\(this, "\w+"(, (?:true|false))?\)', code)
        read = made.group(0) if made else code.split("\n    set ")[0].split("\n    reset")[0]
        found[name] = {
            "computed": computed == "true", "optional": optional == "true", "required": required == "true",
            "class": made.group(1) if made else None,
            "type": next((kind for pattern, kind in GETTERS if re.search(pattern, read)), "dynamic"),
        }  # fmt: skip
    return found


def block(file: Bindings, attributes: dict[str, dict[str, Any]], flags: Flags) -> dict[str, Any]:
    """A schema block; what is only computed is an attribute even when it has a class."""
    made: dict[str, Any] = {"attributes": {}, "block_types": {}}
    for name, attribute in attributes.items():
        flag, nested = flags.get(name), attribute["class"]
        only_computed = attribute["computed"] and not attribute["optional"]
        if nested and "StringMap" not in nested and not only_computed and (flag is None or flag[0]):
            made["block_types"][name] = _nested(file, attribute, flag)
            continue
        made["attributes"][name] = {
            "type": attribute["type"],
            **{key: True for key in ("required", "optional", "computed") if attribute[key]},
        }
    return made


def _nested(file: Bindings, attribute: dict[str, Any], flag: tuple[bool, str, str] | None) -> dict[str, Any]:
    stem = re.sub(r"(OutputReference|List)$", "", attribute["class"])
    _, inner = file.classes.get(f"{stem}OutputReference") or file.classes.get(attribute["class"]) or ("", {})
    found: dict[str, Any] = {
        "nesting_mode": NESTING.get(flag[1] if flag else "list", "list"),
        "block": block(file, inner, file.structs.get(stem.lower(), {})),
    }
    if found["nesting_mode"] != "single":
        if attribute["required"]:
            found["min_items"] = 1
        if attribute["class"].endswith("OutputReference"):
            found["max_items"] = 1
    return found


def provider_block(file: Bindings, flags: Flags, stem: str) -> dict[str, Any]:
    """The provider's own settings; `features` and its parts are structs without classes."""
    made: dict[str, Any] = {"attributes": {}, "block_types": {}}
    for name, (is_block, nesting, kind) in flags.items():
        child = stem + name.replace("_", "")
        if is_block:
            made["block_types"][name] = {
                "nesting_mode": "list",
                "block": provider_block(file, file.structs.get(child, {}), child),
            }
        else:
            simple = SIMPLE.get(kind, "string") if nesting == "simple" else ["list", "string"]
            made["attributes"][name] = {"type": simple, "optional": True}
    made["attributes"].pop("alias", None)
    return made


def extract(folder: Path) -> dict[str, Any]:
    made: dict[str, Any] = {"provider": {}, "resources": {}, "data": {}}
    for name in (*RESOURCES, *DATA):
        file = Bindings((folder / name / "index.js").read_text())
        made["data" if name in DATA else "resources"][file.type] = block(file, file.main(), file.top)
    provider = Bindings((folder / "provider" / "index.js").read_text())
    made["provider"] = provider_block(provider, provider.top, "azurermprovider")
    return made


if __name__ == "__main__":
    json.dump(extract(Path(sys.argv[1])), sys.stdout, indent=0, sort_keys=True)
    print()
