output "acr_name" {
  description = "The container registry of this workspace."
  value       = azurerm_container_registry.this.name
}

output "acr_login_server" {
  description = "The address of the container registry."
  value       = azurerm_container_registry.this.login_server
}

output "resource_group" {
  description = "The resource group."
  value       = module.region.resource_group_name
}

output "aks_cluster_name" {
  description = "The cluster."
  value       = module.region.aks_cluster_name
}

output "postgresql_name" {
  description = "The database server."
  value       = module.region.postgresql_name
}

output "redis_name" {
  description = "The cache; null where there is none."
  value       = module.region.redis_name
}

output "managed_identity_client_id" {
  description = "The client id of the environment's managed identity (AZURE_MANAGED_IDENTITY_CLIENT_ID)."
  value       = local.identity.client_id
}

output "key_vault_gateway_id" {
  description = "The resource id of the vault with the gateway's own secrets."
  value       = module.region.gateway_vault.id
}

output "key_vault_project_id" {
  description = "The resource id of the vault with project secrets; in a DR workspace that of the copy."
  value       = module.region.project_vault.id
}

output "key_vault_project_name" {
  description = "The name of that vault."
  value       = module.region.project_vault.name
}

output "cluster_subnet_id" {
  description = "The subnet of the nodes, for peer_subnet_ids of the other workspace."
  value       = module.region.cluster_subnet_id
}

output "power" {
  description = "What the region was asked to be, where it can be stopped."
  value       = module.region.power
}

output "helm_values_summary" {
  description = "What the chart wants to know."
  value = merge(module.region.helm_values_summary, {
    acr_login_server   = azurerm_container_registry.this.login_server
    project_vaults     = [for name in local.project_vaults : "https://${name}.vault.azure.net/"]
    frontend_url       = var.gateway_frontend_url
    entra_tenant_id    = var.entra_tenant_id
    entra_client_id    = var.entra_client_id
    entra_redirect_uri = local.redirect_uri
  })
}

output "gateway_environment_variables" {
  description = "What every gateway has in its environment."
  value = {
    MAZEVAULT_GATEWAY_ENVIRONMENT    = module.environment.name
    MAZEVAULT_GATEWAY_ROLE           = var.gateway_role
    AZURE_MANAGED_IDENTITY_CLIENT_ID = local.identity.client_id
  }
}

output "dr_copy_rule" {
  description = "The integration and the sync rule of MazeVault that keep this vault current; null outside of a DR workspace."
  value = local.standby ? {
    integration = { type = "key_vault", provider = "azure_key_vault", config = { vault_url = module.region.project_vault.uri, vault_id = module.region.project_vault.id, auth_method = "managed_identity" } }
    rule        = { direction = "push", setup = { dr_copy = true } }
  } : null
}
