"""A provider that knows the schema of azurerm and nothing else: `terraform validate` and `terraform test` need no network then.

It answers what Terraform asks before it would touch Azure: the schema, and a plan in which what Azure computes is unknown. It can
apply nothing. Started by Terraform itself, from a filesystem mirror:

    python provider.py azurerm-schema.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgpack
import tf.provider
import tf.runner
from tf.gen import tfplugin_pb2 as messages
from tf.gen import tfplugin_pb2_grpc as services

Nested = messages.Schema.NestedBlock
NESTING = {"single": Nested.SINGLE, "list": Nested.LIST, "set": Nested.SET, "map": Nested.MAP}
UNKNOWN = msgpack.ExtType(0, b"\x00")  # Terraform's own mark for "known after apply"
NOTHING = b"\xc0"


def schema_of(block: dict[str, Any]) -> Any:
    made = messages.Schema.Block(version=0)
    for name, attribute in sorted(block["attributes"].items()):
        can = {key: attribute.get(key, False) for key in ("required", "optional", "computed")}
        made.attributes.append(messages.Schema.Attribute(name=name, type=json.dumps(attribute["type"]).encode(), **can))
    for name, nested in sorted(block["block_types"].items()):
        bounds = {"min_items": nested.get("min_items", 0), "max_items": nested.get("max_items", 0)}
        inner = schema_of(nested["block"])
        made.block_types.append(Nested(type_name=name, block=inner, nesting=NESTING[nested["nesting_mode"]], **bounds))
    return made


class SchemaOnly(services.ProviderServicer):
    """Names are those of Terraform's plugin protocol 6."""

    schema: dict[str, Any] = {}

    def __init__(self, *_: Any) -> None:
        pass

    def GetMetadata(self, request: Any, context: Any) -> Any:
        answer = messages.GetMetadata
        return answer.Response(
            server_capabilities=messages.ServerCapabilities(plan_destroy=True),
            resources=[answer.ResourceMetadata(type_name=name) for name in self.schema["resources"]],
            data_sources=[answer.DataSourceMetadata(type_name=name) for name in self.schema["data"]],
        )

    def GetProviderSchema(self, request: Any, context: Any) -> Any:
        def each(kind: str) -> dict[str, Any]:
            return {name: messages.Schema(version=0, block=schema_of(block)) for name, block in self.schema[kind].items()}

        return messages.GetProviderSchema.Response(
            provider=messages.Schema(version=0, block=schema_of(self.schema["provider"])),
            resource_schemas=each("resources"),
            data_source_schemas=each("data"),
        )

    def ValidateProviderConfig(self, request: Any, context: Any) -> Any:
        return messages.ValidateProviderConfig.Response()

    def ValidateResourceConfig(self, request: Any, context: Any) -> Any:
        return messages.ValidateResourceConfig.Response()

    def ValidateDataResourceConfig(self, request: Any, context: Any) -> Any:
        return messages.ValidateDataResourceConfig.Response()

    def ConfigureProvider(self, request: Any, context: Any) -> Any:
        return messages.ConfigureProvider.Response()

    def UpgradeResourceState(self, request: Any, context: Any) -> Any:
        return messages.UpgradeResourceState.Response(upgraded_state=messages.DynamicValue(json=request.raw_state.json))

    def ReadResource(self, request: Any, context: Any) -> Any:
        return messages.ReadResource.Response(new_state=request.current_state)

    def ReadDataSource(self, request: Any, context: Any) -> Any:
        read = msgpack.unpackb(request.config.msgpack, raw=False, strict_map_key=False)
        for name, attribute in self.schema["data"][request.type_name]["attributes"].items():
            if read.get(name) is None and attribute["type"] == "string":
                read[name] = f"stand-in-{name}"
        return messages.ReadDataSource.Response(state=messages.DynamicValue(msgpack=msgpack.packb(read)))

    def PlanResourceChange(self, request: Any, context: Any) -> Any:
        proposed = msgpack.unpackb(request.proposed_new_state.msgpack, raw=False, strict_map_key=False)
        if proposed is not None and request.prior_state.msgpack == NOTHING:
            for name, attribute in self.schema["resources"][request.type_name]["attributes"].items():
                if proposed.get(name) is None and attribute.get("computed"):
                    proposed[name] = UNKNOWN
        return messages.PlanResourceChange.Response(planned_state=messages.DynamicValue(msgpack=msgpack.packb(proposed)))

    def StopProvider(self, request: Any, context: Any) -> Any:
        return messages.StopProvider.Response()


class Name:
    """What the runner asks of a provider object."""

    def full_name(self) -> str:
        return "registry.terraform.io/hashicorp/azurerm"


if __name__ == "__main__":
    SchemaOnly.schema = json.loads(Path(sys.argv[1]).read_text())
    tf.provider.ProviderServicer = SchemaOnly
    tf.runner.run_provider(Name(), sys.argv)
