# What is wrong is refused at plan, with the variable's name.

mock_provider "azurerm" {
  source = "../testing/mocks"
}

variables {
  company_code            = "crd"
  environment             = "pro"
  primary_backend_url     = "https://198.51.100.7:8443"
  gateway_bootstrap_token = "mvb1.aaaaaaaaaaaaaaaaaaaaaaaa"
  entra_tenant_id         = "11111111-2222-3333-4444-555555555555"
  gateway_frontend_url    = "https://mazevault.bank.example"
}

run "names" {
  command = plan
  variables {
    company_code        = "creditbank"
    project_code        = "mazevault"
    environment         = "production"
    location_zone       = "lan"
    primary_region      = "Germany West Central"
    primary_region_code = "germany"
    dr_region           = "West Europe"
    dr_region_code      = "w-e"
  }
  expect_failures = [
    var.company_code, var.project_code, var.environment, var.location_zone, var.primary_region, var.primary_region_code, var.dr_region, var.dr_region_code,
  ]
}

run "sizes" {
  command = plan
  variables {
    kubernetes_version     = "v1.32"
    aks_node_count         = 0
    aks_vm_size            = "D2s_v3"
    postgresql_version     = "9.6"
    postgresql_sku         = "D2ds_v5"
    postgresql_storage_mb  = 1000
    postgresql_backup_days = 3
    acr_sku                = "premium"
    log_retention_days     = 7
    primary_address_space  = "10.60.0.0/24"
    dr_address_space       = "10.61.0.0"
  }
  expect_failures = [
    var.kubernetes_version, var.aks_node_count, var.aks_vm_size, var.postgresql_version, var.postgresql_sku, var.postgresql_storage_mb,
    var.postgresql_backup_days, var.acr_sku, var.log_retention_days, var.primary_address_space, var.dr_address_space,
  ]
}

run "addresses_and_secrets" {
  command = plan
  variables {
    primary_backend_url       = "http://your-primary.example.com:8443"
    primary_backend_addresses = ["your-primary.example.com"]
    operator_addresses        = ["me"]
    gateway_bootstrap_token   = "token from step 1"
    entra_tenant_id           = "your-tenant-id"
    entra_client_id           = "your-client-id"
    entra_client_secret       = "11111111-2222-3333-4444-555555555555"
    entra_redirect_uri        = "https://mazevault.bank.example/callback"
    gateway_frontend_url      = "mazevault.your-domain.internal"
    kubernetes_namespace      = "Maze Vault"
    service_account_name      = "MazeVault"
  }
  expect_failures = [
    var.primary_backend_url, var.primary_backend_addresses, var.operator_addresses, var.gateway_bootstrap_token, var.entra_tenant_id, var.entra_client_id,
    var.entra_client_secret, var.entra_redirect_uri, var.gateway_frontend_url, var.kubernetes_namespace, var.service_account_name,
  ]
}

run "one_region_twice" {
  command = plan
  variables {
    dr_region = "germanywestcentral"
  }
  expect_failures = [terraform_data.together]
}

run "one_region_code_twice" {
  command = plan
  variables {
    dr_region_code = "GWC"
  }
  expect_failures = [terraform_data.together]
}

run "a_client_id_without_its_secret" {
  command = plan
  variables {
    entra_client_id = "11111111-2222-3333-4444-666666666666"
  }
  expect_failures = [terraform_data.together]
}
