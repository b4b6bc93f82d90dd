# A gateway in one region and its cold standby in another. docs/operations/azure.md goes through it step by step.

locals {
  gateway_environment = var.is_nonprod ? "NPR" : "PRO"

  naming = {
    company_code    = var.company_code
    project_code    = var.project_code
    environment     = var.environment
    is_nonprod      = var.is_nonprod
    location_zone   = var.location_zone
    convention_file = var.naming_convention_file
  }
  redirect_uri = coalesce(var.entra_redirect_uri, "${trimsuffix(var.gateway_frontend_url, "/")}/api/v1/auth/sso/entra/callback")
  tags         = merge({ project = var.project_code }, var.tags)

  identity = {
    id                  = azurerm_user_assigned_identity.gateway.id
    client_id           = azurerm_user_assigned_identity.gateway.client_id
    principal_id        = azurerm_user_assigned_identity.gateway.principal_id
    gateway_environment = azurerm_user_assigned_identity.gateway.tags["gateway_environment"]
  }
}

data "azurerm_client_config" "operator" {}

# Each variable may be right alone and wrong beside another one.
resource "terraform_data" "together" {
  lifecycle {
    precondition {
      condition     = !var.dr_enabled || var.dr_region != var.primary_region
      error_message = "dr_region and primary_region are both ${var.primary_region}; set dr_region to another region, or dr_enabled = false."
    }
    precondition {
      condition     = !var.dr_enabled || lower(var.dr_region_code) != lower(var.primary_region_code)
      error_message = "dr_region_code and primary_region_code are both ${var.primary_region_code}, so both regions would have the same names; set dr_region_code to the code of ${var.dr_region}."
    }
    precondition {
      condition     = contains(["dev", "itg", "tst"], lower(var.environment)) == var.is_nonprod
      error_message = "is_nonprod does not fit the environment ${var.environment}; set is_nonprod = ${!var.is_nonprod}."
    }
    precondition {
      condition     = (var.entra_client_id == "") == !nonsensitive(var.entra_client_secret != "")
      error_message = "entra_client_id and entra_client_secret belong together; set both (TF_VAR_entra_client_id, TF_VAR_entra_client_secret) or neither."
    }
  }
}

# The only identity that reaches the environment's vaults; the standby shares it.
resource "azurerm_user_assigned_identity" "gateway" {
  name                = module.gwc.names["managed_identity"]
  location            = var.primary_region
  resource_group_name = module.gwc.resource_group_name
  tags                = merge(local.tags, { gateway_environment = local.gateway_environment })
}

resource "azurerm_container_registry" "this" {
  name                = module.gwc.names["container_registry"]
  location            = var.primary_region
  resource_group_name = module.gwc.resource_group_name
  sku                 = var.acr_sku
  admin_enabled       = false
  tags                = local.tags

  dynamic "georeplications" {
    for_each = var.dr_enabled && var.acr_sku == "Premium" ? [var.dr_region] : []
    content {
      location                        = georeplications.value
      global_endpoint_routing_enabled = true
      zone_redundancy_enabled         = false
    }
  }
}

module "gwc" {
  source                    = "../modules/region"
  naming                    = local.naming
  location                  = var.primary_region
  region_code               = var.primary_region_code
  gateway_environment       = local.gateway_environment
  gateway_role              = "primary"
  identity                  = local.identity
  operator_object_id        = data.azurerm_client_config.operator.object_id
  tenant_id                 = var.entra_tenant_id
  registry_id               = azurerm_container_registry.this.id
  address_space             = var.primary_address_space
  primary_backend_url       = var.primary_backend_url
  primary_backend_addresses = var.primary_backend_addresses
  restrict_egress           = var.restrict_egress
  kubernetes_version        = var.kubernetes_version
  aks_node_count            = var.aks_node_count
  aks_vm_size               = var.aks_vm_size
  enable_redis              = var.enable_redis
  postgresql_version        = var.postgresql_version
  postgresql_sku            = var.postgresql_sku
  postgresql_storage_mb     = var.postgresql_storage_mb
  postgresql_backup_days    = var.postgresql_backup_days
  gateway_bootstrap_token   = var.gateway_bootstrap_token
  token_at_activation       = false
  entra_client_secret       = var.entra_client_secret
  has_entra_client_secret   = var.entra_client_id != ""
  peer_subnet_ids           = module.dr[*].cluster_subnet_id
  operator_addresses        = var.operator_addresses
  log_retention_days        = var.log_retention_days
  container_log_v2          = var.container_log_v2
  namespace                 = var.kubernetes_namespace
  service_account           = var.service_account_name
  stoppable                 = false
  stopped                   = false
  tags                      = local.tags
}

module "dr" {
  source = "../modules/region"
  count  = var.dr_enabled ? 1 : 0

  naming                    = local.naming
  location                  = var.dr_region
  region_code               = var.dr_region_code
  gateway_environment       = local.gateway_environment
  gateway_role              = "dr-standby"
  identity                  = local.identity
  operator_object_id        = data.azurerm_client_config.operator.object_id
  tenant_id                 = var.entra_tenant_id
  registry_id               = azurerm_container_registry.this.id
  address_space             = var.dr_address_space
  primary_backend_url       = var.primary_backend_url
  primary_backend_addresses = var.primary_backend_addresses
  restrict_egress           = var.restrict_egress
  kubernetes_version        = var.kubernetes_version
  aks_node_count            = var.aks_node_count
  aks_vm_size               = var.aks_vm_size
  enable_redis              = var.enable_redis
  postgresql_version        = var.postgresql_version
  postgresql_sku            = var.postgresql_sku
  postgresql_storage_mb     = var.postgresql_storage_mb
  postgresql_backup_days    = var.postgresql_backup_days
  gateway_bootstrap_token   = var.gateway_bootstrap_token
  token_at_activation       = true
  entra_client_secret       = var.entra_client_secret
  has_entra_client_secret   = var.entra_client_id != ""
  peer_subnet_ids           = [module.gwc.cluster_subnet_id]
  operator_addresses        = var.operator_addresses
  log_retention_days        = var.log_retention_days
  container_log_v2          = var.container_log_v2
  namespace                 = var.kubernetes_namespace
  service_account           = var.service_account_name
  stoppable                 = true
  stopped                   = var.dr_stopped
  tags                      = local.tags
}

# Not known to be wrong, so it stops nothing, but nobody should pass it over.
check "primary_backend_addresses" {
  assert {
    condition     = length(var.primary_backend_addresses) > 0 || can(cidrhost("${regex("^https://([^/:]+)", var.primary_backend_url)[0]}/32", 0))
    error_message = "primary_backend_addresses is empty and primary_backend_url has a name, so the first row of the security group lets its port out to any address; set primary_backend_addresses to where the Primary is."
  }
}
