output "name" {
  description = "The name of the cache."
  value       = azurerm_redis_cache.this.name
}

output "url" {
  description = "REDIS_URL of the gateway, with TLS."
  value       = "rediss://:${urlencode(azurerm_redis_cache.this.primary_access_key)}@${azurerm_redis_cache.this.hostname}:6380/0"
  sensitive   = true
}

output "facts" {
  description = "What tests and operators want to know of the cache."
  value = {
    plain_port  = azurerm_redis_cache.this.non_ssl_port_enabled
    minimum_tls = azurerm_redis_cache.this.minimum_tls_version
    public      = azurerm_redis_cache.this.public_network_access_enabled
    endpoint    = azurerm_private_endpoint.this.private_service_connection[0].private_connection_resource_id == azurerm_redis_cache.this.id
    subnet_id   = azurerm_private_endpoint.this.subnet_id
  }
}
