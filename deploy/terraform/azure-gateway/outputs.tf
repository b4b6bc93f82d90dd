# The outputs of the primary region begin with gwc_ whatever the region is: the commands of the documentation read them by these names.

output "acr_name" {
  description = "The container registry."
  value       = azurerm_container_registry.this.name
}

output "acr_login_server" {
  description = "The address of the container registry."
  value       = azurerm_container_registry.this.login_server
}

output "gwc_resource_group" {
  description = "The resource group of the primary region."
  value       = module.gwc.resource_group_name
}

output "gwc_aks_cluster_name" {
  description = "The cluster of the primary region."
  value       = module.gwc.aks_cluster_name
}

output "gwc_managed_identity_client_id" {
  description = "The client id of the environment's managed identity (AZURE_MANAGED_IDENTITY_CLIENT_ID)."
  value       = azurerm_user_assigned_identity.gateway.client_id
}

output "gwc_key_vault_gateway_id" {
  description = "The resource id of the vault with the gateway's own secrets."
  value       = module.gwc.gateway_vault.id
}

output "gwc_key_vault_project_id" {
  description = "The resource id of the vault with project secrets."
  value       = module.gwc.project_vault.id
}

output "gwc_postgresql_name" {
  description = "The database server of the primary region."
  value       = module.gwc.postgresql_name
}

output "gwc_redis_name" {
  description = "The cache of the primary region; null without one."
  value       = module.gwc.redis_name
}

output "enterprise_app_name" {
  description = "The name that the app registration has by the convention."
  value       = module.gwc.names["enterprise_app"]
}

output "gwc_log_analytics_workspace_id" {
  description = "Where the logs of the primary region are."
  value       = module.gwc.log_analytics_workspace_id
}

output "helm_values_summary" {
  description = "What the chart of the gateway wants to know."
  value = merge(module.gwc.helm_values_summary, {
    acr_login_server   = azurerm_container_registry.this.login_server
    project_vaults     = concat([module.gwc.project_vault.uri], module.dr[*].project_vault.uri)
    frontend_url       = var.gateway_frontend_url
    entra_tenant_id    = var.entra_tenant_id
    entra_client_id    = var.entra_client_id
    entra_redirect_uri = local.redirect_uri
  })
}

output "dr_resource_group" {
  description = "The resource group of the DR region; null without one."
  value       = one(module.dr[*].resource_group_name)
}

output "dr_aks_cluster_name" {
  description = "The cluster of the DR region; null without one."
  value       = one(module.dr[*].aks_cluster_name)
}

output "dr_postgresql_name" {
  description = "The database server of the DR region; null without one."
  value       = one(module.dr[*].postgresql_name)
}

output "dr_key_vault_gateway_id" {
  description = "The resource id of the DR region's vault with the gateway's own secrets; null without one."
  value       = one(module.dr[*].gateway_vault.id)
}

output "dr_key_vault_gateway_name" {
  description = "The name of that vault, where the new bootstrap token is put at the activation; null without one."
  value       = one(module.dr[*].gateway_vault.name)
}

output "dr_power" {
  description = "What the DR region was asked to be; null without one."
  value       = one(module.dr[*].power)
}

output "dr_helm_values_summary" {
  description = "What the chart of the DR gateway wants to know; null without one."
  value = one([for summary in module.dr[*].helm_values_summary : merge(summary, {
    acr_login_server   = azurerm_container_registry.this.login_server
    project_vaults     = [module.gwc.project_vault.uri, module.dr[0].project_vault.uri]
    frontend_url       = var.gateway_frontend_url
    entra_tenant_id    = var.entra_tenant_id
    entra_client_id    = var.entra_client_id
    entra_redirect_uri = local.redirect_uri
  })])
}

output "dr_copy_rule" {
  description = "The integration and the sync rule of MazeVault that keep the DR region's vault current; null without a DR region."
  value = one([for vault in module.dr[*].project_vault : {
    integration = { type = "key_vault", provider = "azure_key_vault", config = { vault_url = vault.uri, vault_id = vault.id, auth_method = "managed_identity" } }
    rule        = { direction = "push", setup = { dr_copy = true } }
  }])
}
