output "cluster_subnet_id" {
  description = "The subnet of the cluster's nodes, with its security group in force."
  value       = azurerm_subnet.cluster.id
  depends_on  = [azurerm_subnet_network_security_group_association.cluster, azurerm_network_security_rule.outbound]
}

output "endpoint_subnet_id" {
  description = "The subnet of the private endpoints."
  value       = azurerm_subnet.endpoints.id
}

output "dns_zone_ids" {
  description = "The private DNS zones, by name."
  value       = { for name, zone in azurerm_private_dns_zone.this : name => zone.id }
  depends_on  = [azurerm_private_dns_zone_virtual_network_link.this]
}

output "outbound_rows" {
  description = "The rows of the firewall table, as they are in the security group."
  value = [
    for rule in azurerm_network_security_rule.outbound : {
      name = rule.name, direction = rule.direction, access = rule.access, protocol = rule.protocol, priority = rule.priority
      from = rule.source_address_prefix, port = rule.destination_port_range
      to   = rule.destination_address_prefix == null ? sort(rule.destination_address_prefixes) : [rule.destination_address_prefix]
    }
  ]
}

output "platform_rows" {
  description = "What else is let out when egress is restricted, and the row that closes the rest."
  value = [
    for rule in concat(values(azurerm_network_security_rule.platform), azurerm_network_security_rule.nothing_else) :
    {
      name = rule.name, access = rule.access, priority = rule.priority, protocol = rule.protocol, port = rule.destination_port_range
      to   = rule.destination_address_prefix == null ? sort(rule.destination_address_prefixes) : [rule.destination_address_prefix]
    }
  ]
}

output "guarded_subnet" {
  description = "The subnet that the security group is attached to."
  value       = azurerm_subnet_network_security_group_association.cluster.subnet_id == azurerm_subnet.cluster.id
}
