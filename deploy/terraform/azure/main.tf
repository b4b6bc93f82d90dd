# One gateway of one environment in one region. Four workspaces make the four gateways: npr, npr-dr, pro, pro-dr.
# docs/operations/azure.md goes through it step by step.

module "environment" {
  source                 = "../modules/environment"
  workspace              = coalesce(var.workspace, terraform.workspace)
  gateway_environment    = var.gateway_environment
  gateway_role           = var.gateway_role
  managed_identity_name  = var.managed_identity_name
  project_key_vault_name = local.project_key_vault_name
}

locals {
  code    = lower(var.gateway_environment)
  standby = module.environment.standby

  # What the workspace is, in one place: everything below asks here.
  location               = local.standby ? var.dr_region : var.primary_region
  region_code            = local.standby ? var.dr_region_code : var.primary_region_code
  project_key_vault_name = coalesce(var.project_key_vault_name, "kv-mazevault-${local.code}${var.gateway_role == "dr-standby" ? "-dr" : ""}")
  # MAZEVAULT_PROJECT_VAULTS of both gateways: the vault, and its copy for the DR region.
  project_vaults = coalescelist(var.project_key_vault_names, ["kv-mazevault-${local.code}", "kv-mazevault-${local.code}-dr"])

  naming = {
    company_code    = var.company_code
    project_code    = var.project_code
    environment     = local.code
    is_nonprod      = false # npr is the environment itself here, so its names have it once
    location_zone   = var.location_zone
    convention_file = var.naming_convention_file
  }
  tags = merge({ project = var.project_code }, var.tags)

  identity = local.standby ? {
    id                  = data.azurerm_user_assigned_identity.shared[0].id
    client_id           = data.azurerm_user_assigned_identity.shared[0].client_id
    principal_id        = data.azurerm_user_assigned_identity.shared[0].principal_id
    gateway_environment = try(data.azurerm_user_assigned_identity.shared[0].tags["gateway_environment"], "none")
    } : {
    id                  = azurerm_user_assigned_identity.gateway[0].id
    client_id           = azurerm_user_assigned_identity.gateway[0].client_id
    principal_id        = azurerm_user_assigned_identity.gateway[0].principal_id
    gateway_environment = azurerm_user_assigned_identity.gateway[0].tags["gateway_environment"]
  }
  redirect_uri = coalesce(var.entra_redirect_uri, "${trimsuffix(var.gateway_frontend_url, "/")}/api/v1/auth/sso/entra/callback")
}

data "azurerm_client_config" "operator" {}

# Each variable may be right alone and wrong beside another one.
resource "terraform_data" "together" {
  lifecycle {
    precondition {
      condition     = var.dr_region != var.primary_region && lower(var.dr_region_code) != lower(var.primary_region_code)
      error_message = "dr_region and primary_region, and their codes, must differ; set dr_region and dr_region_code to another region."
    }
    precondition {
      condition     = (var.entra_client_id == "") == !nonsensitive(var.entra_client_secret != "")
      error_message = "entra_client_id and entra_client_secret belong together; set both (TF_VAR_entra_client_id, TF_VAR_entra_client_secret) or neither."
    }
    precondition {
      condition     = contains(local.project_vaults, local.project_key_vault_name)
      error_message = "project_key_vault_name ${local.project_key_vault_name} is not in project_key_vault_names, so the gateway would refuse its own vault; set project_key_vault_names to the vault and its copy."
    }
    precondition {
      condition     = local.standby || var.standby_mode == "warm"
      error_message = "standby_mode is cold, and gateway_role is primary: a primary is never stopped; leave standby_mode out."
    }
  }
}

# The names of the primary's region: the standby looks there for the identity that both share.
module "naming_primary" {
  source          = "../modules/naming"
  company_code    = local.naming.company_code
  project_code    = local.naming.project_code
  environment     = local.naming.environment
  is_nonprod      = local.naming.is_nonprod
  location_zone   = local.naming.location_zone
  region_code     = var.primary_region_code
  convention_file = local.naming.convention_file
}

resource "azurerm_user_assigned_identity" "gateway" {
  count = local.standby ? 0 : 1

  name                = var.managed_identity_name
  location            = local.location
  resource_group_name = module.region.resource_group_name
  tags                = merge(local.tags, { gateway_environment = module.environment.name })
}

data "azurerm_user_assigned_identity" "shared" {
  count = local.standby ? 1 : 0

  name                = var.managed_identity_name
  resource_group_name = module.naming_primary.names["resource_group"]

  lifecycle {
    postcondition {
      condition     = try(self.tags["gateway_environment"], "none") == module.environment.name
      error_message = "managed_identity_name ${var.managed_identity_name} is an identity of ${try(self.tags["gateway_environment"], "no environment")}, by its tag gateway_environment, and this workspace is of ${module.environment.name}; set managed_identity_name to the one that the workspace ${local.code} made."
    }
  }
}

resource "azurerm_container_registry" "this" {
  name                = module.region.names["container_registry"]
  location            = local.location
  resource_group_name = module.region.resource_group_name
  sku                 = var.acr_sku
  admin_enabled       = false
  tags                = local.tags
}

module "region" {
  source                    = "../modules/region"
  naming                    = local.naming
  location                  = local.location
  region_code               = local.region_code
  gateway_environment       = module.environment.name
  gateway_role              = var.gateway_role
  identity                  = local.identity
  operator_object_id        = data.azurerm_client_config.operator.object_id
  tenant_id                 = var.entra_tenant_id
  registry_id               = azurerm_container_registry.this.id
  address_space             = var.address_space
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
  project_key_vault_name    = local.project_key_vault_name
  gateway_bootstrap_token   = var.gateway_bootstrap_token
  token_at_activation       = local.standby && var.standby_mode == "cold"
  entra_client_secret       = var.entra_client_secret
  has_entra_client_secret   = var.entra_client_id != ""
  peer_subnet_ids           = var.peer_subnet_ids
  operator_addresses        = var.operator_addresses
  log_retention_days        = var.log_retention_days
  container_log_v2          = var.container_log_v2
  namespace                 = var.kubernetes_namespace
  service_account           = var.service_account_name
  stoppable                 = local.standby
  stopped                   = local.standby && var.standby_mode == "cold"
  tags                      = local.tags
}

# Not known to be wrong, so it stops nothing, but nobody should pass it over.
check "primary_backend_addresses" {
  assert {
    condition     = length(var.primary_backend_addresses) > 0 || can(cidrhost("${regex("^https://([^/:]+)", var.primary_backend_url)[0]}/32", 0))
    error_message = "primary_backend_addresses is empty and primary_backend_url has a name, so the first row of the security group lets its port out to any address; set primary_backend_addresses to where the Primary is."
  }
}
