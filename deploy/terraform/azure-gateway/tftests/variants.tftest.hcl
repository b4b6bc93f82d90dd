# The region pair with other wishes: brought up, closed, without DR, without Redis, not for production.

mock_provider "azurerm" {
  source = "../testing/mocks"
}

variables {
  company_code            = "crd"
  project_code            = "mzv"
  environment             = "pro"
  is_nonprod              = false
  location_zone           = "int"
  primary_region          = "germanywestcentral"
  primary_region_code     = "gwc"
  dr_region               = "westeurope"
  dr_region_code          = "we"
  dr_enabled              = true
  kubernetes_version      = "1.32"
  aks_node_count          = 2
  aks_vm_size             = "Standard_D2s_v3"
  enable_redis            = true
  primary_backend_url     = "https://198.51.100.7:8443"
  gateway_bootstrap_token = "mvb1.aaaaaaaaaaaaaaaaaaaaaaaa"
  entra_tenant_id         = "11111111-2222-3333-4444-555555555555"
  gateway_frontend_url    = "https://mazevault.bank.example"
}

run "a_closed_way_out_ends_with_a_row_that_denies" {
  command = plan
  variables {
    restrict_egress = true
  }

  assert {
    condition     = [for row in module.gwc.facts.platform_rows : row.priority if row.access == "Deny"] == [4096]
    error_message = "Nothing closes the way out."
  }
  assert {
    condition     = length([for row in module.gwc.facts.platform_rows : row if row.access == "Allow"]) == 8
    error_message = "The cluster would not get ready."
  }
  assert {
    condition     = one([for row in module.gwc.facts.platform_rows : row.to if row.name == "out-cluster-inside"]) == tolist(["10.244.0.0/16", "10.60.0.0/22"])
    error_message = "Pods do not reach each other, or reach what is not theirs."
  }
  assert {
    condition     = module.gwc.facts.cluster.pod_addresses == "10.244.0.0/16"
    error_message = "Pods have other addresses than the security group knows."
  }
}

run "a_primary_with_a_name_is_let_out_to_its_addresses" {
  command = plan
  variables {
    primary_backend_url       = "https://your-primary.example.com:8443"
    primary_backend_addresses = ["203.0.113.11/32", "203.0.113.10/32"]
  }

  assert {
    condition     = one([for row in module.gwc.facts.rows : row.to if row.name == "out-primary"]) == tolist(["203.0.113.10/32", "203.0.113.11/32"])
    error_message = "Row 1 leads somewhere else."
  }
}

run "a_primary_with_a_name_alone_is_warned_of" {
  command = plan
  variables {
    primary_backend_url = "https://your-primary.example.com:8443"
  }
  expect_failures = [check.primary_backend_addresses]
}

run "the_dr_region_is_brought_up" {
  command = plan
  variables {
    dr_stopped = false
  }

  assert {
    condition     = output.dr_power == { aks = "Running", postgresql = "Ready", redis = "Running" }
    error_message = "The DR region is ${jsonencode(output.dr_power)}."
  }
  assert {
    condition     = contains(module.dr[0].facts.gateway_vault.secrets, "redis-url")
    error_message = "The gateway of the DR region does not find its Redis."
  }
}

run "without_dr_there_is_one_region" {
  command = plan
  variables {
    dr_enabled = false
  }

  assert {
    condition     = length(module.dr) == 0 && output.dr_power == null && output.dr_copy_rule == null && output.dr_resource_group == null
    error_message = "There is a DR region."
  }
  assert {
    condition     = length(output.helm_values_summary.project_vaults) == 1 && length(azurerm_container_registry.this.georeplications) == 0
    error_message = "Something of a DR region is left."
  }
}

run "without_redis_there_is_none" {
  command = plan
  variables {
    enable_redis = false
    dr_stopped   = false
  }

  assert {
    condition     = output.gwc_redis_name == null && output.dr_power.redis == "Absent" && !contains(keys(output.helm_values_summary.secrets), "REDIS_URL")
    error_message = "There is a cache."
  }
}

run "closed_vaults_let_both_clusters_in" {
  command = plan
  variables {
    operator_addresses = ["203.0.113.0/24"]
  }

  assert {
    condition     = module.gwc.facts.gateway_vault.default_action == "Deny" && module.dr[0].facts.project_vault.default_action == "Deny"
    error_message = "The vaults are open."
  }
}

run "a_nonproduction_environment_is_npr" {
  command = plan
  variables {
    environment = "dev"
    is_nonprod  = true
  }

  assert {
    condition     = module.gwc.gateway_vault.name == "crdnprdevintmzvgwckv01" && output.gwc_resource_group == "rg-crd-npr-dev-int-mzv-gwc"
    error_message = "The names are ${module.gwc.gateway_vault.name}, ${output.gwc_resource_group}."
  }
  assert {
    condition     = output.helm_values_summary.gateway_environment == "NPR" && module.gwc.facts.project_vault.gateway_environment == "NPR" && azurerm_user_assigned_identity.gateway.tags["gateway_environment"] == "NPR"
    error_message = "A part of it is not of NPR."
  }
}
