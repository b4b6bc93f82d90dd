"""Faults for the Terraform files, one line each, and the test file that has to notice.

    python -m tests.deploy.mutations [WORD]

prints each (with a word: each that has it in its file or its fault) with whether it was noticed. The long suite does the same.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.deploy.conftest import TERRAFORM, TESTS, Workspace, mirror, tool

PAIR, VARIANTS = ("azure-gateway", f"{TESTS}/pair.tftest.hcl"), ("azure-gateway", f"{TESTS}/variants.tftest.hcl")
REFUSALS, FOUR = ("azure-gateway", f"{TESTS}/refusals.tftest.hcl"), ("azure", f"{TESTS}/workspaces.tftest.hcl")
MIXING, GUARD = ("azure", f"{TESTS}/refusals.tftest.hcl"), ("modules/environment", f"{TESTS}/environment.tftest.hcl")
GRANTS = ("modules/vault", f"{TESTS}/isolation.tftest.hcl")


@dataclass(frozen=True, slots=True)
class Mutation:
    """`before` stands once in the file and becomes `after`; `noticed_by` is a folder and one of its test files."""

    file: str
    before: str
    after: str
    noticed_by: tuple[str, str]


NETWORK, CLUSTER, DATABASE = "modules/network/main.tf", "modules/cluster/main.tf", "modules/database/main.tf"
CACHE, VAULT, REGION, ENVIRONMENT = (
    "modules/cache/main.tf",
    "modules/vault/main.tf",
    "modules/region/main.tf",
    "modules/environment/",
)

MUTATIONS = (
    Mutation(NETWORK, 'port = "6380"', 'port = "6379"', PAIR),
    Mutation(NETWORK, 'port = "5432", to = [var.endpoint_subnet]', 'port = "5432", to = ["*"]', PAIR),
    Mutation(NETWORK, 'to = ["AzureKeyVault"]', 'to = ["AzureCloud"]', PAIR),
    Mutation(NETWORK, 'sign-in    = { priority = 110', 'sign-in    = { priority = 120', PAIR),
    Mutation(NETWORK, 'for_each = local.rows', 'for_each = { for name, row in local.rows : name => row if name != "graph" }', PAIR),
    Mutation(NETWORK, "subnet_id                 = azurerm_subnet.cluster.id", "subnet_id                 = azurerm_subnet.endpoints.id", PAIR),
    Mutation(NETWORK, 'access                      = "Deny"', 'access                      = "Allow"', VARIANTS),
    Mutation(CLUSTER, "workload_identity_enabled = true", "workload_identity_enabled = false", PAIR),
    Mutation(CLUSTER, "${var.namespace}:${var.service_account}", "${var.namespace}:default", PAIR),
    Mutation(CLUSTER, 'role_definition_name = "AcrPull"', 'role_definition_name = "AcrPush"', PAIR),
    Mutation(CLUSTER, "user_assigned_identity_id = var.workload_identity_id", "user_assigned_identity_id = azurerm_user_assigned_identity.kubelet.id", PAIR),
    Mutation(CLUSTER, '{ verb = "stop", state = "Stopped" }', '{ verb = "start", state = "Running" }', PAIR),
    Mutation(CLUSTER, "count = var.stoppable ? 1 : 0", "count = 1", PAIR),
    Mutation(CLUSTER, '"Microsoft-ContainerLogV2" : "Microsoft-ContainerLog", "Microsoft-KubePodInventory", "Microsoft-KubeEvents"]\n    destinations',
             '"Microsoft-ContainerLogV2" : "Microsoft-KubeEvents", "Microsoft-KubePodInventory"]\n    destinations', PAIR),
    Mutation(DATABASE, "public_network_access_enabled = false", "public_network_access_enabled = true", PAIR),
    Mutation(DATABASE, '{ verb = "stop", state = "Stopped" }', '{ verb = "start", state = "Ready" }', PAIR),
    Mutation(CACHE, "non_ssl_port_enabled          = false", "non_ssl_port_enabled          = true", PAIR),
    Mutation(CACHE, 'minimum_tls_version           = "1.2"', 'minimum_tls_version           = "1.0"', PAIR),
    Mutation(VAULT, "rbac_authorization_enabled = true", "rbac_authorization_enabled = false", PAIR),
    Mutation(VAULT, "purge_protection_enabled   = true", "purge_protection_enabled   = false", PAIR),
    Mutation(VAULT, '? "Allow" : "Deny"', '? "Allow" : "Allow"', VARIANTS),
    Mutation(VAULT, "each.value.gateway_environment == var.gateway_environment", "each.value.gateway_environment == var.gateway_environment || true", GRANTS),
    Mutation(REGION, 'role                = "Key Vault Secrets User"', 'role                = "Key Vault Secrets Officer"', PAIR),
    Mutation(REGION, "principal_id        = var.operator_object_id", "principal_id        = var.identity.principal_id", PAIR),
    Mutation(REGION, "redis = var.enable_redis && !var.stopped", "redis = var.enable_redis", PAIR),
    Mutation(REGION, "redis = var.enable_redis && !var.stopped", "redis = !var.stopped", VARIANTS),
    Mutation(REGION, 'replaced_later             = var.token_at_activation ? ["gateway-bootstrap-token"] : []', "replaced_later             = []", PAIR),
    Mutation(REGION, 'module.naming_second.names["key_vault"]', '"${module.naming_second.names["key_vault"]}x"', PAIR),
    Mutation("modules/region/outputs.tf", "= module.gateway_vault.name\n    kv_gateway_uri", "= module.project_vault.name\n    kv_gateway_uri", PAIR),
    Mutation("azure-gateway/main.tf", "count  = var.dr_enabled ? 1 : 0", "count  = 1", VARIANTS),
    Mutation("azure-gateway/main.tf", "stopped                   = var.dr_stopped", "stopped                   = true", VARIANTS),
    Mutation("azure-gateway/main.tf", "location                  = var.dr_region", "location                  = var.primary_region", PAIR),
    Mutation("azure-gateway/main.tf", 'gateway_environment = var.is_nonprod ? "NPR" : "PRO"', 'gateway_environment = "PRO"', VARIANTS),
    Mutation("azure-gateway/main.tf", "!var.dr_enabled || var.dr_region != var.primary_region", "!var.dr_enabled || var.dr_region != var.primary_region || true", REFUSALS),
    Mutation("azure-gateway/main.tf", "length(var.primary_backend_addresses) > 0 ||", "true ||", VARIANTS),
    Mutation("azure-gateway/outputs.tf", "value       = module.gwc.gateway_vault.id", "value       = module.gwc.project_vault.id", PAIR),
    Mutation("azure-gateway/variables.tf", 'contains(["int", "dmz"], lower(var.location_zone))', 'contains(["int", "dmz"], lower(var.location_zone)) || true', REFUSALS),
    Mutation("azure-gateway/variables.tf", 'can(regex("^[a-zA-Z][a-zA-Z0-9]{1,3}$", var.company_code))', 'can(regex("^[a-zA-Z][a-zA-Z0-9]{1,3}$", var.company_code)) || true', REFUSALS),
    Mutation("azure/main.tf", "count = local.standby ? 0 : 1", "count = 1", FOUR),
    Mutation("azure/main.tf", "location               = local.standby ? var.dr_region : var.primary_region", "location               = var.primary_region", FOUR),
    Mutation("azure/main.tf", "gateway_environment       = module.environment.name", 'gateway_environment       = "NPR"', FOUR),
    Mutation("azure/main.tf", 'stopped                   = local.standby && var.standby_mode == "cold"', "stopped                   = local.standby", FOUR),
    Mutation("azure/main.tf", 'try(self.tags["gateway_environment"], "none") == module.environment.name', 'try(self.tags["gateway_environment"], "none") == module.environment.name || true', MIXING),
    Mutation("azure/main.tf", 'local.standby || var.standby_mode == "warm"', 'local.standby || var.standby_mode == "warm" || true', MIXING),
    Mutation(ENVIRONMENT + "outputs.tf", "length(local.foreign.managed_identity_name) == 0", "length(local.foreign.managed_identity_name) == 0 || true", GUARD),
    Mutation(ENVIRONMENT + "outputs.tf", "length(local.foreign.project_key_vault_name) == 0", "length(local.foreign.project_key_vault_name) == 0 || true", GUARD),
    Mutation(ENVIRONMENT + "outputs.tf", "var.workspace == local.workspace", "var.workspace == local.workspace || true", GUARD),
    Mutation(ENVIRONMENT + "main.tf", "lower(name))", "name)", GUARD),
)  # fmt: skip


# How a test or a guard of ours notices; a file that Terraform cannot read at all proves nothing.
SIGNS = ("Test assertion failed", "Missing expected failure", "precondition failed")


def noticed(deployment: Workspace, mutation: Mutation) -> bool:
    """Whether the test file fails with the fault, in a folder where all is initialised; the folder is afterwards as before."""
    file, (place, test) = deployment.folder / mutation.file, mutation.noticed_by
    whole = file.read_text()
    if whole.count(mutation.before) != 1:
        raise LookupError(f"{mutation.file} has {whole.count(mutation.before)} times: {mutation.before}")
    file.write_text(whole.replace(mutation.before, mutation.after))
    try:
        done = deployment.below(place).run("test", "-no-color", f"-test-directory={TESTS}", f"-filter={test}")
    finally:
        file.write_text(whole)
    told = done.stdout + done.stderr
    return done.returncode != 0 and any(sign in told for sign in SIGNS)


def places() -> list[str]:
    return sorted({mutation.noticed_by[0] for mutation in MUTATIONS})


def main(word: str = "") -> int:
    program = tool("terraform")
    if program is None:
        print("terraform is neither on PATH nor in the folder that MAZEVAULT_TOOLS names")
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        deployment = Workspace(folder / "terraform", program, {"TF_CLI_CONFIG_FILE": str(mirror(folder, program))})
        shutil.copytree(
            TERRAFORM, deployment.folder, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*", "terraform.tfvars")
        )
        for place in places():
            deployment.below(place).init()
        missed, tried = 0, [mutation for mutation in MUTATIONS if word in mutation.file or word in mutation.after]
        for mutation in tried:
            seen = noticed(deployment, mutation)
            missed += not seen
            print("noticed" if seen else "MISSED ", mutation.file, "|", mutation.after.splitlines()[0], flush=True)
    print(f"{len(tried) - missed} of {len(tried)} faults were noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
