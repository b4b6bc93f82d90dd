output "name" {
  description = "The name of the server."
  value       = azurerm_postgresql_flexible_server.this.name
}

output "url" {
  description = "DATABASE_URL of the gateway."
  value       = "postgresql://${azurerm_postgresql_flexible_server.this.administrator_login}:${terraform_data.password.output}@${azurerm_postgresql_flexible_server.this.fqdn}:5432/${azurerm_postgresql_flexible_server_database.gateway.name}?sslmode=verify-full&sslrootcert=system"
  sensitive   = true
}

output "facts" {
  description = "What tests and operators want to know of the server."
  value = {
    public      = azurerm_postgresql_flexible_server.this.public_network_access_enabled
    version     = azurerm_postgresql_flexible_server.this.version
    backup_days = azurerm_postgresql_flexible_server.this.backup_retention_days
    endpoint    = azurerm_private_endpoint.this.private_service_connection[0].private_connection_resource_id == azurerm_postgresql_flexible_server.this.id
    subnet_id   = azurerm_private_endpoint.this.subnet_id
  }
}

output "power" {
  description = "Stopped or Ready where the region can be stopped, else null."
  value       = one(terraform_data.power[*].input.state)
}
