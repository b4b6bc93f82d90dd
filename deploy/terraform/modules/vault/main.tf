# One Key Vault with its own role assignments (RBAC, no access policies), and what is denied and read in Log Analytics.

resource "azurerm_key_vault" "this" {
  name                       = var.name
  location                   = var.location
  resource_group_name        = var.resource_group_name
  tenant_id                  = var.tenant_id
  sku_name                   = "standard"
  rbac_authorization_enabled = true
  purge_protection_enabled   = true
  soft_delete_retention_days = 90
  tags                       = merge(var.tags, { gateway_environment = var.gateway_environment })

  network_acls {
    bypass                     = "AzureServices"
    default_action             = length(var.operator_addresses) == 0 ? "Allow" : "Deny"
    ip_rules                   = var.operator_addresses
    virtual_network_subnet_ids = var.subnet_ids
  }
}

resource "azurerm_role_assignment" "this" {
  for_each = var.grants

  scope                = azurerm_key_vault.this.id
  role_definition_name = each.value.role
  principal_id         = each.value.principal_id
  principal_type       = each.value.principal_type
  description          = each.value.purpose

  lifecycle {
    precondition {
      condition     = each.value.gateway_environment == var.gateway_environment
      error_message = "The vault ${var.name} is of ${var.gateway_environment} and the identity ${each.key} of ${each.value.gateway_environment}; an identity gets no role on a vault of another environment."
    }
  }
}

resource "azurerm_key_vault_secret" "this" {
  for_each = toset(var.secret_names)

  name         = each.key
  value        = var.secrets[each.key]
  key_vault_id = azurerm_key_vault.this.id
  content_type = "text/plain"

  depends_on = [azurerm_role_assignment.this]
}

# What a person or a program replaces later (a new bootstrap token at the activation of DR) is made once and then left alone.
resource "azurerm_key_vault_secret" "replaced_later" {
  for_each = toset(var.replaced_later)

  name         = each.key
  value        = "not-yet-set"
  key_vault_id = azurerm_key_vault.this.id
  content_type = "text/plain"

  lifecycle {
    ignore_changes = [value]
  }
  depends_on = [azurerm_role_assignment.this]
}

resource "azurerm_monitor_diagnostic_setting" "this" {
  name                       = "audit"
  target_resource_id         = azurerm_key_vault.this.id
  log_analytics_workspace_id = var.log_analytics_workspace_id

  enabled_log {
    category_group = "audit"
  }
}
