# One virtual network a region: a subnet for the cluster with the outbound rows of the firewall table, and one for private endpoints.

locals {
  # A security group knows addresses and service tags, no host names: each host stands for the tag that Microsoft keeps for it.
  # Microsoft Graph has no tag of its own; its addresses are in AzureActiveDirectory.
  rows = {
    primary    = { priority = 100, port = var.primary_backend_port, to = var.primary_backend_addresses, why = "Gateway to Primary" }
    sign-in    = { priority = 110, port = "443", to = ["AzureActiveDirectory"], why = "login.microsoftonline.com: Entra ID SSO login" }
    graph      = { priority = 120, port = "443", to = ["AzureActiveDirectory"], why = "graph.microsoft.com: Graph API (groups, RBAC)" }
    management = { priority = 130, port = "443", to = ["AzureResourceManager"], why = "management.azure.com: Key Vault RBAC discovery" }
    vaults     = { priority = 140, port = "443", to = ["AzureKeyVault"], why = "*.vault.azure.net: Key Vault access" }
    postgresql = { priority = 150, port = "5432", to = [var.endpoint_subnet], why = "PostgreSQL private endpoint" }
    redis      = { priority = 160, port = "6380", to = [var.endpoint_subnet], why = "Redis private endpoint (TLS)" }
  }
  # Pods have addresses of their own: on the way to each other they keep them, on the way out they have their node's.
  inside = [var.cluster_subnet, var.pod_addresses]
  # What the nodes of a cluster need beside it; without these a closed way out leaves a cluster that never gets ready.
  platform = {
    cluster-inside = { priority = 200, protocol = "*", port = "*", to = local.inside, why = "Nodes and pods of the cluster" }
    cluster-api    = { priority = 210, protocol = "Tcp", port = "443", to = ["AzureCloud.${var.location}"], why = "API server of the cluster" }
    images         = { priority = 220, protocol = "Tcp", port = "443", to = ["MicrosoftContainerRegistry"], why = "Images of the platform" }
    image-layers   = { priority = 230, protocol = "Tcp", port = "443", to = ["AzureFrontDoor.FirstParty"], why = "Layers of these images, packages of the nodes" }
    registry       = { priority = 240, protocol = "Tcp", port = "443", to = ["AzureContainerRegistry"], why = "Image of MazeVault" }
    registry-data  = { priority = 250, protocol = "Tcp", port = "443", to = ["Storage"], why = "Layers of the image of MazeVault" }
    logs           = { priority = 260, protocol = "Tcp", port = "443", to = ["AzureMonitor"], why = "Log Analytics" }
    time           = { priority = 270, protocol = "Udp", port = "123", to = ["Internet"], why = "Time" }
  }
}

resource "azurerm_virtual_network" "this" {
  name                = var.name
  location            = var.location
  resource_group_name = var.resource_group_name
  address_space       = [var.address_space]
  tags                = var.tags
}

resource "azurerm_subnet" "cluster" {
  name                 = "snet-aks"
  resource_group_name  = var.resource_group_name
  virtual_network_name = azurerm_virtual_network.this.name
  address_prefixes     = [var.cluster_subnet]

  service_endpoint {
    service = "Microsoft.KeyVault"
  }
}

resource "azurerm_subnet" "endpoints" {
  name                 = "snet-endpoints"
  resource_group_name  = var.resource_group_name
  virtual_network_name = azurerm_virtual_network.this.name
  address_prefixes     = [var.endpoint_subnet]
}

resource "azurerm_network_security_group" "cluster" {
  name                = "nsg-${var.name}-aks"
  location            = var.location
  resource_group_name = var.resource_group_name
  tags                = var.tags
}

resource "azurerm_network_security_rule" "outbound" {
  for_each = local.rows

  name                         = "out-${each.key}"
  description                  = each.value.why
  resource_group_name          = var.resource_group_name
  network_security_group_name  = azurerm_network_security_group.cluster.name
  direction                    = "Outbound"
  access                       = "Allow"
  priority                     = each.value.priority
  protocol                     = "Tcp"
  source_address_prefix        = var.cluster_subnet
  source_port_range            = "*"
  destination_address_prefix   = length(each.value.to) == 1 ? each.value.to[0] : null
  destination_address_prefixes = length(each.value.to) == 1 ? null : each.value.to
  destination_port_range       = each.value.port
}

resource "azurerm_network_security_rule" "platform" {
  for_each = var.restrict_egress ? local.platform : {}

  name                         = "out-${each.key}"
  description                  = each.value.why
  resource_group_name          = var.resource_group_name
  network_security_group_name  = azurerm_network_security_group.cluster.name
  direction                    = "Outbound"
  access                       = "Allow"
  priority                     = each.value.priority
  protocol                     = each.value.protocol
  source_address_prefixes      = local.inside
  source_port_range            = "*"
  destination_address_prefix   = length(each.value.to) == 1 ? each.value.to[0] : null
  destination_address_prefixes = length(each.value.to) == 1 ? null : each.value.to
  destination_port_range       = each.value.port
}

resource "azurerm_network_security_rule" "nothing_else" {
  count = var.restrict_egress ? 1 : 0

  name                        = "out-nothing-else"
  description                 = "What no row above allows"
  resource_group_name         = var.resource_group_name
  network_security_group_name = azurerm_network_security_group.cluster.name
  direction                   = "Outbound"
  access                      = "Deny"
  priority                    = 4096
  protocol                    = "*"
  source_address_prefix       = "*"
  source_port_range           = "*"
  destination_address_prefix  = "*"
  destination_port_range      = "*"
}

resource "azurerm_subnet_network_security_group_association" "cluster" {
  subnet_id                 = azurerm_subnet.cluster.id
  network_security_group_id = azurerm_network_security_group.cluster.id
}

resource "azurerm_private_dns_zone" "this" {
  for_each = toset(["privatelink.postgres.database.azure.com", "privatelink.redis.cache.windows.net"])

  name                = each.key
  resource_group_name = var.resource_group_name
  tags                = var.tags
}

resource "azurerm_private_dns_zone_virtual_network_link" "this" {
  for_each = azurerm_private_dns_zone.this

  name                 = var.name
  private_dns_zone_id  = each.value.id
  virtual_network_id   = azurerm_virtual_network.this.id
  registration_enabled = false
  tags                 = var.tags
}
