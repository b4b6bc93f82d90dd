# No identity of one environment gets a role on a vault of another one, whoever calls the module.

mock_provider "azurerm" {
  source = "../../testing/mocks"
}

variables {
  name                       = "kv-mazevault-npr"
  location                   = "germanywestcentral"
  resource_group_name        = "rg"
  tenant_id                  = "11111111-2222-3333-4444-555555555555"
  gateway_environment        = "NPR"
  subnet_ids                 = []
  operator_addresses         = []
  log_analytics_workspace_id = "/subscriptions/s/workspace"
  tags                       = {}
  grants = {
    gateway = { principal_id = "npr", role = "Key Vault Secrets Officer", purpose = "Sync", gateway_environment = "NPR" }
  }
}

run "an_identity_of_the_environment_gets_its_role" {
  command = plan

  assert {
    condition     = [for grant in output.facts.roles : "${grant.principal} ${grant.role} ${grant.here}"] == ["npr Key Vault Secrets Officer true"]
    error_message = "The roles are others than those asked for."
  }
}

run "an_identity_of_pro_gets_no_role_on_a_vault_of_npr" {
  command = plan
  variables {
    grants = {
      gateway = { principal_id = "pro", role = "Key Vault Secrets User", purpose = "Sync", gateway_environment = "PRO" }
    }
  }
  expect_failures = [azurerm_role_assignment.this]
}

run "an_identity_of_npr_gets_no_role_on_a_vault_of_pro" {
  command = plan
  variables {
    gateway_environment = "PRO"
  }
  expect_failures = [azurerm_role_assignment.this]
}
