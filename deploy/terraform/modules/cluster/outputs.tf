output "name" {
  description = "The name of the cluster."
  value       = azurerm_kubernetes_cluster.this.name
}

output "facts" {
  description = "What tests and operators want to know of the cluster."
  value = {
    version           = azurerm_kubernetes_cluster.this.kubernetes_version
    nodes             = azurerm_kubernetes_cluster.this.default_node_pool[0].node_count
    vm_size           = azurerm_kubernetes_cluster.this.default_node_pool[0].vm_size
    subnet_id         = azurerm_kubernetes_cluster.this.default_node_pool[0].vnet_subnet_id
    pod_addresses     = azurerm_kubernetes_cluster.this.network_profile[0].pod_cidr
    oidc_issuer       = azurerm_kubernetes_cluster.this.oidc_issuer_enabled
    workload_identity = azurerm_kubernetes_cluster.this.workload_identity_enabled
    trusted_subject   = azurerm_federated_identity_credential.gateway.subject
    trusted_issuer    = azurerm_federated_identity_credential.gateway.issuer == azurerm_kubernetes_cluster.this.oidc_issuer_url
    trusted_audience  = azurerm_federated_identity_credential.gateway.audience
    trusting_identity = azurerm_federated_identity_credential.gateway.user_assigned_identity_id
    logs_to           = azurerm_kubernetes_cluster.this.oms_agent[0].log_analytics_workspace_id
    log_streams       = azurerm_monitor_data_collection_rule.logs.data_flow[0].streams
    roles = [
      for grant in concat(values(azurerm_role_assignment.control_plane), [azurerm_role_assignment.images]) :
      { role = grant.role_definition_name, scope = grant.scope, principal = grant.principal_id }
    ]
  }
}

output "power" {
  description = "Stopped or Running where the region can be stopped, else null."
  value       = one(terraform_data.power[*].input.state)
}
