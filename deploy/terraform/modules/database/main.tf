# The gateway's own PostgreSQL: reached by a private endpoint only.

locals {
  # Azure starts a stopped server by itself after seven days; docs/operations/azure.md says what to do about that.
  power = var.stopped ? { verb = "stop", state = "Stopped" } : { verb = "start", state = "Ready" }
}

# Random when it is made, kept from then on, hidden in every output. Azure wants three kinds of characters.
resource "terraform_data" "password" {
  input = sensitive("Mz-${uuid()}")

  lifecycle {
    ignore_changes = [input]
  }
}

resource "azurerm_postgresql_flexible_server" "this" {
  name                          = var.name
  location                      = var.location
  resource_group_name           = var.resource_group_name
  version                       = var.postgresql_version
  sku_name                      = var.sku_name
  storage_mb                    = var.storage_mb
  backup_retention_days         = var.backup_retention_days
  administrator_login           = "mazevault"
  administrator_password        = terraform_data.password.output
  public_network_access_enabled = false
  tags                          = var.tags

  lifecycle {
    ignore_changes = [zone] # Azure chooses one, and a failover inside the region changes it
  }
}

resource "azurerm_postgresql_flexible_server_database" "gateway" {
  name      = "mazevault"
  server_id = azurerm_postgresql_flexible_server.this.id
  charset   = "UTF8"
  collation = "en_US.utf8"
}

resource "azurerm_private_endpoint" "this" {
  name                = "pe-${var.name}"
  location            = var.location
  resource_group_name = var.resource_group_name
  subnet_id           = var.subnet_id
  tags                = var.tags

  private_service_connection {
    name                           = var.name
    private_connection_resource_id = azurerm_postgresql_flexible_server.this.id
    subresource_names              = ["postgresqlServer"]
    is_manual_connection           = false
  }

  private_dns_zone_group {
    name                 = "default"
    private_dns_zone_ids = [var.dns_zone_id]
  }
}

# Azure has no property for "stopped", so it is an action: taken again only when the wish or the server changes.
resource "terraform_data" "power" {
  count = var.stoppable ? 1 : 0

  input            = { state = local.power.state, resource_group = var.resource_group_name, name = var.name }
  triggers_replace = [azurerm_postgresql_flexible_server.this.id, local.power.state]

  provisioner "local-exec" {
    interpreter = ["sh", "-c"]
    command     = <<-SH
      at='--resource-group ${var.resource_group_name} --name ${var.name}'
      test "$(az postgres flexible-server show $at --query state --output tsv)" = ${local.power.state} || az postgres flexible-server ${local.power.verb} $at
    SH
  }

  depends_on = [azurerm_postgresql_flexible_server_database.gateway, azurerm_private_endpoint.this]
}
