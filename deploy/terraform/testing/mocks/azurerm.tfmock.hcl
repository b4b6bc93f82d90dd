# What Azure would compute gets a value of its own at plan already, a different one each time, so that tests can compare ids.

mock_resource "azurerm_container_registry" {
  override_during = plan
  defaults        = {}
}

mock_resource "azurerm_key_vault" {
  override_during = plan
  defaults        = {}
}

mock_resource "azurerm_kubernetes_cluster" {
  override_during = plan
  defaults        = {}
}

mock_resource "azurerm_log_analytics_workspace" {
  override_during = plan
  defaults        = {}
}

mock_resource "azurerm_monitor_data_collection_rule" {
  override_during = plan
  defaults        = {}
}

mock_resource "azurerm_network_security_group" {
  override_during = plan
  defaults        = {}
}

mock_resource "azurerm_postgresql_flexible_server" {
  override_during = plan
  defaults        = {}
}

mock_resource "azurerm_private_dns_zone" {
  override_during = plan
  defaults        = {}
}

mock_resource "azurerm_redis_cache" {
  override_during = plan
  defaults        = {}
}

mock_resource "azurerm_resource_group" {
  override_during = plan
  defaults        = {}
}

mock_resource "azurerm_subnet" {
  override_during = plan
  defaults        = {}
}

mock_resource "azurerm_user_assigned_identity" {
  override_during = plan
  defaults        = {}
}

mock_resource "azurerm_virtual_network" {
  override_during = plan
  defaults        = {}
}

mock_data "azurerm_client_config" {
  override_during = plan
  defaults        = {}
}
