# Everything of one gateway in one region. Both deployments are made of this: the region pair and the four workspaces.

module "naming" {
  source          = "../naming"
  company_code    = var.naming.company_code
  project_code    = var.naming.project_code
  environment     = var.naming.environment
  is_nonprod      = var.naming.is_nonprod
  location_zone   = var.naming.location_zone
  region_code     = var.region_code
  convention_file = var.naming.convention_file
}

# The second of its kind: the vault for project secrets, and the identity that runs the cluster.
module "naming_second" {
  source          = "../naming"
  company_code    = var.naming.company_code
  project_code    = var.naming.project_code
  environment     = var.naming.environment
  is_nonprod      = var.naming.is_nonprod
  location_zone   = var.naming.location_zone
  region_code     = var.region_code
  convention_file = var.naming.convention_file
  number          = 2
}

# The third: the identity that pulls images.
module "naming_third" {
  source          = "../naming"
  company_code    = var.naming.company_code
  project_code    = var.naming.project_code
  environment     = var.naming.environment
  is_nonprod      = var.naming.is_nonprod
  location_zone   = var.naming.location_zone
  region_code     = var.region_code
  convention_file = var.naming.convention_file
  number          = 3
}

locals {
  names = module.naming.names
  tags = merge(var.tags, {
    gateway_environment = var.gateway_environment
    gateway_role        = var.gateway_role
    managed_by          = "terraform"
  })
  project_key_vault_name = coalesce(var.project_key_vault_name, module.naming_second.names["key_vault"])

  backend = regex("^https://(?P<host>[^/:]+)(?::(?P<port>[0-9]+))?/?$", var.primary_backend_url)
  # An address in the URL is the address; a name can change its address, so who runs the Primary says which ones there are.
  backend_is_address        = can(cidrhost("${local.backend.host}/32", 0))
  primary_backend_addresses = length(var.primary_backend_addresses) > 0 ? var.primary_backend_addresses : local.backend_is_address ? ["${local.backend.host}/32"] : ["*"]

  pod_addresses = "10.244.0.0/16" # what Azure takes by itself; said here since the security group must know it

  redis = var.enable_redis && !var.stopped
  # The names under which a node looks for its own secrets (docs/operations/keys.md).
  gateway_secrets = merge(
    {
      database-url             = module.database.url
      mazevault-master-key     = base64sha256(terraform_data.random["mazevault-master-key"].output)
      mazevault-session-secret = base64sha512(terraform_data.random["mazevault-session-secret"].output)
    },
    local.redis ? { redis-url = one(module.cache[*].url) } : {},
    var.has_entra_client_secret ? { entra-client-secret = var.entra_client_secret } : {},
    var.token_at_activation ? {} : { gateway-bootstrap-token = var.gateway_bootstrap_token },
  )
  gateway_secret_names = concat(
    ["database-url", "mazevault-master-key", "mazevault-session-secret"],
    local.redis ? ["redis-url"] : [],
    var.has_entra_client_secret ? ["entra-client-secret"] : [],
    var.token_at_activation ? [] : ["gateway-bootstrap-token"],
  )
}

# Random when it is made, kept from then on: 244 bits, of which the vault gets a digest in the form that the gateway wants.
resource "terraform_data" "random" {
  for_each = toset(["mazevault-master-key", "mazevault-session-secret"])
  input    = sensitive("${uuid()}${uuid()}")

  lifecycle {
    ignore_changes = [input]
  }
}

resource "azurerm_resource_group" "this" {
  name     = local.names["resource_group"]
  location = var.location
  tags     = local.tags
}

resource "azurerm_log_analytics_workspace" "this" {
  name                = local.names["log_analytics"]
  location            = var.location
  resource_group_name = azurerm_resource_group.this.name
  sku                 = "PerGB2018"
  retention_in_days   = var.log_retention_days
  tags                = local.tags
}

module "network" {
  source                    = "../network"
  name                      = local.names["virtual_network"]
  location                  = var.location
  resource_group_name       = azurerm_resource_group.this.name
  address_space             = var.address_space
  cluster_subnet            = cidrsubnet(var.address_space, 2, 0)
  pod_addresses             = local.pod_addresses
  endpoint_subnet           = cidrsubnet(var.address_space, 2, 1)
  primary_backend_addresses = local.primary_backend_addresses
  primary_backend_port      = coalesce(local.backend.port, "443")
  restrict_egress           = var.restrict_egress
  tags                      = local.tags
}

module "database" {
  source                = "../database"
  name                  = local.names["postgresql"]
  location              = var.location
  resource_group_name   = azurerm_resource_group.this.name
  postgresql_version    = var.postgresql_version
  sku_name              = var.postgresql_sku
  storage_mb            = var.postgresql_storage_mb
  backup_retention_days = var.postgresql_backup_days
  subnet_id             = module.network.endpoint_subnet_id
  dns_zone_id           = module.network.dns_zone_ids["privatelink.postgres.database.azure.com"]
  stoppable             = var.stoppable
  stopped               = var.stopped
  tags                  = local.tags
}

module "cache" {
  source = "../cache"
  count  = local.redis ? 1 : 0

  name                = local.names["redis"]
  location            = var.location
  resource_group_name = azurerm_resource_group.this.name
  subnet_id           = module.network.endpoint_subnet_id
  dns_zone_id         = module.network.dns_zone_ids["privatelink.redis.cache.windows.net"]
  tags                = local.tags
}

module "cluster" {
  source                      = "../cluster"
  name                        = local.names["aks"]
  location                    = var.location
  resource_group_name         = azurerm_resource_group.this.name
  kubernetes_version          = var.kubernetes_version
  node_count                  = var.aks_node_count
  vm_size                     = var.aks_vm_size
  subnet_id                   = module.network.cluster_subnet_id
  pod_addresses               = local.pod_addresses
  control_plane_identity_name = module.naming_second.names["managed_identity"]
  kubelet_identity_name       = module.naming_third.names["managed_identity"]
  workload_identity_id        = var.identity.id
  namespace                   = var.namespace
  service_account             = var.service_account
  registry_id                 = var.registry_id
  log_analytics_workspace_id  = azurerm_log_analytics_workspace.this.id
  container_log_v2            = var.container_log_v2
  operator_addresses          = var.operator_addresses
  stoppable                   = var.stoppable
  stopped                     = var.stopped
  tags                        = local.tags
}

# What the gateway itself needs to run. It reads here and can write nothing; who applies this configuration writes.
module "gateway_vault" {
  source                     = "../vault"
  name                       = local.names["key_vault"]
  location                   = var.location
  resource_group_name        = azurerm_resource_group.this.name
  tenant_id                  = var.tenant_id
  gateway_environment        = var.gateway_environment
  subnet_ids                 = [module.network.cluster_subnet_id]
  operator_addresses         = var.operator_addresses
  log_analytics_workspace_id = azurerm_log_analytics_workspace.this.id
  secret_names               = local.gateway_secret_names
  secrets                    = local.gateway_secrets
  replaced_later             = var.token_at_activation ? ["gateway-bootstrap-token"] : []
  tags                       = local.tags

  grants = {
    gateway = {
      principal_id        = var.identity.principal_id
      principal_type      = "ServicePrincipal"
      role                = "Key Vault Secrets User"
      purpose             = "Read operational secrets"
      gateway_environment = var.identity.gateway_environment
    }
    operator = {
      principal_id        = var.operator_object_id
      role                = "Key Vault Secrets Officer"
      purpose             = "Write operational secrets when this configuration is applied"
      gateway_environment = var.gateway_environment
    }
  }
}

# Project secrets. In the DR region it is the copy, which a sync rule of MazeVault keeps current: Azure replicates no vault to a region of choice.
module "project_vault" {
  source                     = "../vault"
  name                       = local.project_key_vault_name
  location                   = var.location
  resource_group_name        = azurerm_resource_group.this.name
  tenant_id                  = var.tenant_id
  gateway_environment        = var.gateway_environment
  subnet_ids                 = concat([module.network.cluster_subnet_id], var.peer_subnet_ids)
  operator_addresses         = var.operator_addresses
  log_analytics_workspace_id = azurerm_log_analytics_workspace.this.id
  tags                       = local.tags

  grants = {
    gateway = {
      principal_id        = var.identity.principal_id
      principal_type      = "ServicePrincipal"
      role                = "Key Vault Secrets Officer"
      purpose             = "Sync and rotate project secrets"
      gateway_environment = var.identity.gateway_environment
    }
  }
}
