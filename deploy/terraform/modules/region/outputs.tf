output "names" {
  description = "The names of the region's resources, by type."
  value       = local.names
}

output "resource_group_name" {
  description = "The resource group."
  value       = azurerm_resource_group.this.name
}

output "location" {
  description = "Where the resource group is."
  value       = azurerm_resource_group.this.location
}

output "aks_cluster_name" {
  description = "The cluster."
  value       = module.cluster.name
}

output "postgresql_name" {
  description = "The database server."
  value       = module.database.name
}

output "redis_name" {
  description = "The cache; null where there is none."
  value       = one(module.cache[*].name)
}

output "cluster_subnet_id" {
  description = "The subnet of the nodes."
  value       = module.network.cluster_subnet_id
}

output "gateway_vault" {
  description = "The vault for the gateway's own secrets."
  value       = { id = module.gateway_vault.id, name = module.gateway_vault.name, uri = module.gateway_vault.uri }
}

output "project_vault" {
  description = "The vault for project secrets."
  value       = { id = module.project_vault.id, name = module.project_vault.name, uri = module.project_vault.uri }
}

output "log_analytics_workspace_id" {
  description = "Where the logs are."
  value       = azurerm_log_analytics_workspace.this.id
}

output "power" {
  description = "What the region was asked to be, where it can be stopped."
  value       = { aks = module.cluster.power, postgresql = module.database.power, redis = local.redis ? "Running" : "Absent" }
}

output "facts" {
  description = "What tests and operators want to know of the region, read from the resources."
  value = {
    cluster       = module.cluster.facts
    database      = module.database.facts
    cache         = one(module.cache[*].facts)
    gateway_vault = module.gateway_vault.facts
    project_vault = module.project_vault.facts
    rows          = module.network.outbound_rows
    platform_rows = module.network.platform_rows
    guarded       = module.network.guarded_subnet
    subnets       = { cluster = module.network.cluster_subnet_id, endpoints = module.network.endpoint_subnet_id }
    tags          = azurerm_resource_group.this.tags
  }
}

output "helm_values_summary" {
  description = "What the chart wants to know."
  value = {
    kv_gateway_name            = module.gateway_vault.name
    kv_gateway_uri             = module.gateway_vault.uri
    kv_project_name            = module.project_vault.name
    tenant_id                  = var.tenant_id
    managed_identity_client_id = var.identity.client_id
    gateway_environment        = var.gateway_environment
    gateway_role               = var.gateway_role
    primary_backend_url        = var.primary_backend_url
    namespace                  = var.namespace
    service_account            = var.service_account
    secrets = merge(
      {
        DATABASE_URL             = "database-url"
        MAZEVAULT_MASTER_KEY     = "mazevault-master-key"
        MAZEVAULT_SESSION_SECRET = "mazevault-session-secret"
        GATEWAY_BOOTSTRAP_TOKEN  = "gateway-bootstrap-token"
      },
      local.redis ? { REDIS_URL = "redis-url" } : {},
      var.has_entra_client_secret ? { ENTRA_CLIENT_SECRET = "entra-client-secret" } : {},
    )
  }
}
