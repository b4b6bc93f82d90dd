# What would mix two environments, or is wrong alone, is refused at plan with the variable's name.

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
  workspace               = "npr"
  managed_identity_name   = "mi-mazevault-npr"
}

run "values" {
  command = plan
  variables {
    gateway_environment    = "UAT"
    gateway_role           = "standby"
    managed_identity_name  = "mi mazevault"
    project_key_vault_name = "kv--mazevault"
    standby_mode           = "hot"
    address_space          = "10.0.0.0/28"
  }
  expect_failures = [var.gateway_environment, var.gateway_role, var.managed_identity_name, var.project_key_vault_name, var.standby_mode, var.address_space]
}

run "a_vault_name_that_is_too_long" {
  command = plan
  variables {
    project_key_vault_name = "kv-mazevault-nonproduction"
  }
  expect_failures = [var.project_key_vault_name]
}

run "a_primary_is_never_stopped" {
  command = plan
  variables {
    standby_mode = "cold"
  }
  expect_failures = [terraform_data.together]
}

run "one_region_twice" {
  command = plan
  variables {
    dr_region = "germanywestcentral"
  }
  expect_failures = [terraform_data.together]
}

run "a_vault_that_the_gateway_would_refuse" {
  command = plan
  variables {
    project_key_vault_name = "kv-bank-npr"
  }
  expect_failures = [terraform_data.together]
}

run "an_identity_with_the_tag_of_another_environment" {
  command = plan
  variables {
    workspace             = "npr-dr"
    gateway_role          = "dr-standby"
    managed_identity_name = "mi-mazevault-shared"
  }
  override_data {
    target          = data.azurerm_user_assigned_identity.shared
    override_during = plan
    values          = { tags = { gateway_environment = "PRO" } }
  }
  expect_failures = [data.azurerm_user_assigned_identity.shared]
}
