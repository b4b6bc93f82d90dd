output "id" {
  description = "The resource id of the vault."
  value       = azurerm_key_vault.this.id
}

output "name" {
  description = "The name of the vault."
  value       = azurerm_key_vault.this.name
}

output "uri" {
  description = "The address of the vault."
  value       = azurerm_key_vault.this.vault_uri
}

output "facts" {
  description = "What tests and operators want to know of the vault."
  value = {
    name                = azurerm_key_vault.this.name
    rbac                = azurerm_key_vault.this.rbac_authorization_enabled
    purge_protection    = azurerm_key_vault.this.purge_protection_enabled
    default_action      = azurerm_key_vault.this.network_acls[0].default_action
    gateway_environment = azurerm_key_vault.this.tags["gateway_environment"]
    secrets             = sort(concat([for secret in azurerm_key_vault_secret.this : secret.name], [for secret in azurerm_key_vault_secret.replaced_later : secret.name]))
    replaced_later      = sort([for secret in azurerm_key_vault_secret.replaced_later : secret.name])
    logs_to             = azurerm_monitor_diagnostic_setting.this.log_analytics_workspace_id
    roles = [
      for word, grant in azurerm_role_assignment.this :
      { who = word, role = grant.role_definition_name, here = grant.scope == azurerm_key_vault.this.id, principal = grant.principal_id }
    ]
  }
}
