# The cluster that the gateway runs in. Its pods reach vaults by workload identity: the cluster signs their tokens, and the environment's
# managed identity trusts that signature for the one service account.

locals {
  power = var.stopped ? { verb = "stop", state = "Stopped" } : { verb = "start", state = "Running" }
}

resource "azurerm_user_assigned_identity" "control_plane" {
  name                = var.control_plane_identity_name
  location            = var.location
  resource_group_name = var.resource_group_name
  tags                = var.tags
}

resource "azurerm_user_assigned_identity" "kubelet" {
  name                = var.kubelet_identity_name
  location            = var.location
  resource_group_name = var.resource_group_name
  tags                = var.tags
}

resource "azurerm_role_assignment" "control_plane" {
  for_each = {
    subnet  = { scope = var.subnet_id, role = "Network Contributor" }
    kubelet = { scope = azurerm_user_assigned_identity.kubelet.id, role = "Managed Identity Operator" }
  }

  scope                = each.value.scope
  role_definition_name = each.value.role
  principal_id         = azurerm_user_assigned_identity.control_plane.principal_id
  principal_type       = "ServicePrincipal"
}

resource "azurerm_kubernetes_cluster" "this" {
  name                      = var.name
  location                  = var.location
  resource_group_name       = var.resource_group_name
  dns_prefix                = var.name
  kubernetes_version        = var.kubernetes_version
  oidc_issuer_enabled       = true
  workload_identity_enabled = true
  node_os_upgrade_channel   = "NodeImage"
  tags                      = var.tags

  default_node_pool {
    name                        = "system"
    node_count                  = var.node_count
    vm_size                     = var.vm_size
    vnet_subnet_id              = var.subnet_id
    temporary_name_for_rotation = "rotation"

    upgrade_settings {
      max_surge = "10%"
    }
  }

  identity {
    type         = "UserAssigned"
    identity_ids = [azurerm_user_assigned_identity.control_plane.id]
  }

  kubelet_identity {
    client_id                 = azurerm_user_assigned_identity.kubelet.client_id
    object_id                 = azurerm_user_assigned_identity.kubelet.principal_id
    user_assigned_identity_id = azurerm_user_assigned_identity.kubelet.id
  }

  network_profile {
    network_plugin      = "azure"
    network_plugin_mode = "overlay"
    pod_cidr            = var.pod_addresses
    network_policy      = "cilium"
    network_data_plane  = "cilium"
  }

  key_vault_secrets_provider {
    secret_rotation_enabled = true
  }

  node_provisioning_profile {
    mode = "Manual"
  }

  oms_agent {
    log_analytics_workspace_id      = var.log_analytics_workspace_id
    msi_auth_for_monitoring_enabled = true
  }

  dynamic "api_server_access_profile" {
    for_each = length(var.operator_addresses) == 0 ? [] : [var.operator_addresses]
    content {
      authorized_ip_ranges = api_server_access_profile.value
    }
  }

  depends_on = [azurerm_role_assignment.control_plane]
}

resource "azurerm_federated_identity_credential" "gateway" {
  name                      = "${var.name}-${var.service_account}"
  user_assigned_identity_id = var.workload_identity_id
  issuer                    = azurerm_kubernetes_cluster.this.oidc_issuer_url
  subject                   = "system:serviceaccount:${var.namespace}:${var.service_account}"
  audience                  = ["api://AzureADTokenExchange"]
}

resource "azurerm_role_assignment" "images" {
  scope                = var.registry_id
  role_definition_name = "AcrPull"
  principal_id         = azurerm_user_assigned_identity.kubelet.principal_id
  principal_type       = "ServicePrincipal"
}

# Container logs go to Log Analytics by the agent of the cluster; the rule says which, and the association that this cluster obeys it.
resource "azurerm_monitor_data_collection_rule" "logs" {
  name                = "MSCI-${var.name}"
  location            = var.location
  resource_group_name = var.resource_group_name
  kind                = "Linux"
  tags                = var.tags

  destinations {
    log_analytics {
      name                  = "workspace"
      workspace_resource_id = var.log_analytics_workspace_id
    }
  }

  data_flow {
    streams      = [var.container_log_v2 ? "Microsoft-ContainerLogV2" : "Microsoft-ContainerLog", "Microsoft-KubePodInventory", "Microsoft-KubeEvents"]
    destinations = ["workspace"]
  }

  data_sources {
    extension {
      name           = "ContainerInsightsExtension"
      extension_name = "ContainerInsights"
      streams        = [var.container_log_v2 ? "Microsoft-ContainerLogV2" : "Microsoft-ContainerLog", "Microsoft-KubePodInventory", "Microsoft-KubeEvents"]
      extension_json = jsonencode({ dataCollectionSettings = { interval = "1m", namespaceFilteringMode = "Off", enableContainerLogV2 = var.container_log_v2 } })
    }
  }
}

resource "azurerm_monitor_data_collection_rule_association" "logs" {
  name                    = "ContainerInsightsExtension"
  target_resource_id      = azurerm_kubernetes_cluster.this.id
  data_collection_rule_id = azurerm_monitor_data_collection_rule.logs.id
}

# Azure has no property for "stopped", so it is an action: taken again only when the wish or the cluster changes.
resource "terraform_data" "power" {
  count = var.stoppable ? 1 : 0

  input            = { state = local.power.state, resource_group = var.resource_group_name, name = var.name }
  triggers_replace = [azurerm_kubernetes_cluster.this.id, local.power.state]

  provisioner "local-exec" {
    interpreter = ["sh", "-c"]
    command     = <<-SH
      at='--resource-group ${var.resource_group_name} --name ${var.name}'
      test "$(az aks show $at --query powerState.code --output tsv)" = ${local.power.state} || az aks ${local.power.verb} $at
    SH
  }

  depends_on = [azurerm_federated_identity_credential.gateway, azurerm_role_assignment.images, azurerm_monitor_data_collection_rule_association.logs]
}
