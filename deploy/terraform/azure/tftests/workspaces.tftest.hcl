# The four workspaces, planned with a stand-in for Azure.

mock_provider "azurerm" {
  source = "../testing/mocks"
}

override_data {
  target          = data.azurerm_user_assigned_identity.shared
  override_during = plan
  values = {
    id           = "/subscriptions/s/resourceGroups/rg-crd-npr-int-mzv-gwc/providers/Microsoft.ManagedIdentity/userAssignedIdentities/mi-mazevault-npr"
    client_id    = "11111111-aaaa-4444-8888-000000000001"
    principal_id = "11111111-aaaa-4444-8888-000000000002"
    tags         = { gateway_environment = "NPR" }
  }
}

variables {
  company_code            = "crd"
  primary_backend_url     = "https://198.51.100.7:8443"
  gateway_bootstrap_token = "mvb1.aaaaaaaaaaaaaaaaaaaaaaaa"
  entra_tenant_id         = "11111111-2222-3333-4444-555555555555"
  gateway_frontend_url    = "https://mazevault.bank.example"
  gateway_environment     = "NPR"
  gateway_role            = "primary"
  managed_identity_name   = "mi-mazevault-npr"
}

run "npr_primary" {
  command = plan
  variables {
    workspace             = "npr"
    gateway_environment   = "NPR"
    managed_identity_name = "mi-mazevault-npr"
  }

  assert {
    condition     = azurerm_user_assigned_identity.gateway[0].name == "mi-mazevault-npr" && azurerm_user_assigned_identity.gateway[0].tags["gateway_environment"] == "NPR"
    error_message = "The identity is another one."
  }

  assert {
    condition     = output.key_vault_project_name == "kv-mazevault-npr"
    error_message = "The vault for project secrets is ${output.key_vault_project_name}."
  }

  assert {
    condition     = module.region.gateway_vault.name == "crdnprintmzvgwckv01" && output.aks_cluster_name == "crd-npr-int-mzv-gwc-aks01" && output.postgresql_name == "crd-npr-int-mzv-gwc-psql01" && output.redis_name == "crd-npr-int-mzv-gwc-redis01" && output.resource_group == "rg-crd-npr-int-mzv-gwc"
    error_message = "The names are not those of the convention."
  }

  assert {
    condition     = module.region.location == "germanywestcentral"
    error_message = "The gateway is somewhere else."
  }

  assert {
    condition     = output.gateway_environment_variables == { MAZEVAULT_GATEWAY_ENVIRONMENT = "NPR", MAZEVAULT_GATEWAY_ROLE = "primary", AZURE_MANAGED_IDENTITY_CLIENT_ID = azurerm_user_assigned_identity.gateway[0].client_id }
    error_message = "The gateway would have another environment."
  }

  assert {
    condition     = [for grant in module.region.facts.project_vault.roles : "${grant.role} ${grant.here}"] == ["Key Vault Secrets Officer true"] && one(module.region.facts.project_vault.roles).principal == azurerm_user_assigned_identity.gateway[0].principal_id
    error_message = "Somebody else has a role on the vault for project secrets."
  }

  assert {
    condition     = [for grant in module.region.facts.gateway_vault.roles : grant.role if grant.principal == azurerm_user_assigned_identity.gateway[0].principal_id] == ["Key Vault Secrets User"]
    error_message = "The identity has another role on the vault with the gateway's own secrets."
  }

  assert {
    condition     = module.region.facts.project_vault.gateway_environment == "NPR" && module.region.facts.gateway_vault.gateway_environment == "NPR" && module.region.facts.tags["gateway_environment"] == "NPR"
    error_message = "Something is of another environment."
  }

  assert {
    condition     = output.helm_values_summary.project_vaults == ["https://kv-mazevault-npr.vault.azure.net/", "https://kv-mazevault-npr-dr.vault.azure.net/"]
    error_message = "The gateway may reach other vaults."
  }

  assert {
    condition     = output.power.aks == null && output.power.postgresql == null && output.power.redis == "Running" && output.dr_copy_rule == null
    error_message = "A primary would be stopped, or is taken for a copy."
  }

  assert {
    condition     = length(data.azurerm_user_assigned_identity.shared) == 0
    error_message = "The primary uses an identity that it does not make."
  }

  assert {
    condition     = length(module.region.facts.rows) == 7 && module.region.facts.guarded
    error_message = "The firewall table is not in force."
  }
}

run "pro_primary" {
  command = plan
  variables {
    workspace             = "pro"
    gateway_environment   = "PRO"
    managed_identity_name = "mi-mazevault-pro"
  }

  assert {
    condition     = azurerm_user_assigned_identity.gateway[0].name == "mi-mazevault-pro" && azurerm_user_assigned_identity.gateway[0].tags["gateway_environment"] == "PRO"
    error_message = "The identity is another one."
  }

  assert {
    condition     = output.key_vault_project_name == "kv-mazevault-pro"
    error_message = "The vault for project secrets is ${output.key_vault_project_name}."
  }

  assert {
    condition     = module.region.gateway_vault.name == "crdprointmzvgwckv01" && output.aks_cluster_name == "crd-pro-int-mzv-gwc-aks01" && output.postgresql_name == "crd-pro-int-mzv-gwc-psql01" && output.redis_name == "crd-pro-int-mzv-gwc-redis01" && output.resource_group == "rg-crd-pro-int-mzv-gwc"
    error_message = "The names are not those of the convention."
  }

  assert {
    condition     = module.region.location == "germanywestcentral"
    error_message = "The gateway is somewhere else."
  }

  assert {
    condition     = output.gateway_environment_variables == { MAZEVAULT_GATEWAY_ENVIRONMENT = "PRO", MAZEVAULT_GATEWAY_ROLE = "primary", AZURE_MANAGED_IDENTITY_CLIENT_ID = azurerm_user_assigned_identity.gateway[0].client_id }
    error_message = "The gateway would have another environment."
  }

  assert {
    condition     = [for grant in module.region.facts.project_vault.roles : "${grant.role} ${grant.here}"] == ["Key Vault Secrets Officer true"] && one(module.region.facts.project_vault.roles).principal == azurerm_user_assigned_identity.gateway[0].principal_id
    error_message = "Somebody else has a role on the vault for project secrets."
  }

  assert {
    condition     = [for grant in module.region.facts.gateway_vault.roles : grant.role if grant.principal == azurerm_user_assigned_identity.gateway[0].principal_id] == ["Key Vault Secrets User"]
    error_message = "The identity has another role on the vault with the gateway's own secrets."
  }

  assert {
    condition     = module.region.facts.project_vault.gateway_environment == "PRO" && module.region.facts.gateway_vault.gateway_environment == "PRO" && module.region.facts.tags["gateway_environment"] == "PRO"
    error_message = "Something is of another environment."
  }

  assert {
    condition     = output.helm_values_summary.project_vaults == ["https://kv-mazevault-pro.vault.azure.net/", "https://kv-mazevault-pro-dr.vault.azure.net/"]
    error_message = "The gateway may reach other vaults."
  }

  assert {
    condition     = output.power.aks == null && output.power.postgresql == null && output.power.redis == "Running" && output.dr_copy_rule == null
    error_message = "A primary would be stopped, or is taken for a copy."
  }

  assert {
    condition     = length(data.azurerm_user_assigned_identity.shared) == 0
    error_message = "The primary uses an identity that it does not make."
  }

  assert {
    condition     = length(module.region.facts.rows) == 7 && module.region.facts.guarded
    error_message = "The firewall table is not in force."
  }
}

run "npr_dr" {
  command = plan
  variables {
    workspace             = "npr-dr"
    gateway_environment   = "NPR"
    gateway_role          = "dr-standby"
    managed_identity_name = "mi-mazevault-npr"
  }

  assert {
    condition     = length(azurerm_user_assigned_identity.gateway) == 0 && output.managed_identity_client_id == data.azurerm_user_assigned_identity.shared[0].client_id
    error_message = "The standby does not share the identity of its primary."
  }

  assert {
    condition     = data.azurerm_user_assigned_identity.shared[0].name == "mi-mazevault-npr" && data.azurerm_user_assigned_identity.shared[0].resource_group_name == "rg-crd-npr-int-mzv-gwc"
    error_message = "The identity is looked for somewhere else."
  }

  assert {
    condition     = module.region.location == "westeurope" && output.resource_group == "rg-crd-npr-int-mzv-we" && output.aks_cluster_name == "crd-npr-int-mzv-we-aks01"
    error_message = "The standby is not in the DR region."
  }

  assert {
    condition     = output.gateway_environment_variables.MAZEVAULT_GATEWAY_ROLE == "dr-standby" && output.gateway_environment_variables.MAZEVAULT_GATEWAY_ENVIRONMENT == "NPR"
    error_message = "The gateway would have another role."
  }

  assert {
    condition     = output.power == { aks = "Running", postgresql = "Ready", redis = "Running" }
    error_message = "A warm standby sends heartbeats, so it runs."
  }

  assert {
    condition     = contains(module.region.facts.gateway_vault.secrets, "gateway-bootstrap-token") && length(module.region.facts.gateway_vault.replaced_later) == 0
    error_message = "The standby does not find its token."
  }

  assert {
    condition     = output.key_vault_project_name == "kv-mazevault-npr-dr" && output.dr_copy_rule.rule.setup.dr_copy && output.dr_copy_rule.integration.config.vault_id == output.key_vault_project_id
    error_message = "Nothing feeds the vault of the DR region."
  }

  assert {
    condition     = alltrue([for grant in module.region.facts.project_vault.roles : grant.principal == "11111111-aaaa-4444-8888-000000000002"])
    error_message = "Somebody else has a role on the copy."
  }
}

run "pro_dr" {
  command = plan
  variables {
    workspace             = "pro-dr"
    gateway_environment   = "PRO"
    gateway_role          = "dr-standby"
    managed_identity_name = "mi-mazevault-pro"
  }

  override_data {
    target          = data.azurerm_user_assigned_identity.shared
    override_during = plan
    values = {
      id           = "/subscriptions/s/resourceGroups/rg-crd-pro-int-mzv-gwc/providers/Microsoft.ManagedIdentity/userAssignedIdentities/mi-mazevault-pro"
      client_id    = "11111111-aaaa-4444-8888-000000000003"
      principal_id = "11111111-aaaa-4444-8888-000000000004"
      tags         = { gateway_environment = "PRO" }
    }
  }

  assert {
    condition     = length(azurerm_user_assigned_identity.gateway) == 0 && output.managed_identity_client_id == data.azurerm_user_assigned_identity.shared[0].client_id
    error_message = "The standby does not share the identity of its primary."
  }

  assert {
    condition     = data.azurerm_user_assigned_identity.shared[0].name == "mi-mazevault-pro" && data.azurerm_user_assigned_identity.shared[0].resource_group_name == "rg-crd-pro-int-mzv-gwc"
    error_message = "The identity is looked for somewhere else."
  }

  assert {
    condition     = module.region.location == "westeurope" && output.resource_group == "rg-crd-pro-int-mzv-we" && output.aks_cluster_name == "crd-pro-int-mzv-we-aks01"
    error_message = "The standby is not in the DR region."
  }

  assert {
    condition     = output.gateway_environment_variables.MAZEVAULT_GATEWAY_ROLE == "dr-standby" && output.gateway_environment_variables.MAZEVAULT_GATEWAY_ENVIRONMENT == "PRO"
    error_message = "The gateway would have another role."
  }

  assert {
    condition     = output.power == { aks = "Running", postgresql = "Ready", redis = "Running" }
    error_message = "A warm standby sends heartbeats, so it runs."
  }

  assert {
    condition     = contains(module.region.facts.gateway_vault.secrets, "gateway-bootstrap-token") && length(module.region.facts.gateway_vault.replaced_later) == 0
    error_message = "The standby does not find its token."
  }

  assert {
    condition     = output.key_vault_project_name == "kv-mazevault-pro-dr" && output.dr_copy_rule.rule.setup.dr_copy && output.dr_copy_rule.integration.config.vault_id == output.key_vault_project_id
    error_message = "Nothing feeds the vault of the DR region."
  }

  assert {
    condition     = alltrue([for grant in module.region.facts.project_vault.roles : grant.principal == "11111111-aaaa-4444-8888-000000000004"])
    error_message = "Somebody else has a role on the copy."
  }
}

run "npr_dr_cold" {
  command = plan
  variables {
    workspace             = "npr-dr"
    gateway_environment   = "NPR"
    gateway_role          = "dr-standby"
    managed_identity_name = "mi-mazevault-npr"
    standby_mode          = "cold"
  }

  assert {
    condition     = output.power == { aks = "Stopped", postgresql = "Stopped", redis = "Absent" } && output.redis_name == null
    error_message = "A cold standby is ${jsonencode(output.power)}."
  }

  assert {
    condition     = module.region.facts.gateway_vault.replaced_later == tolist(["gateway-bootstrap-token"])
    error_message = "The token of the activation would be overwritten."
  }
}
