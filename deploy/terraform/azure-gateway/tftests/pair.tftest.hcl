# The region pair, planned with a stand-in for Azure: what the documentation promises, read from the resources.

mock_provider "azurerm" {
  source = "../testing/mocks"
}

variables {
  company_code            = "crd"
  project_code            = "mzv"
  environment             = "pro"
  is_nonprod              = false
  location_zone           = "int"
  primary_region          = "germanywestcentral"
  primary_region_code     = "gwc"
  dr_region               = "westeurope"
  dr_region_code          = "we"
  dr_enabled              = true
  kubernetes_version      = "1.32"
  aks_node_count          = 2
  aks_vm_size             = "Standard_D2s_v3"
  enable_redis            = true
  primary_backend_url     = "https://198.51.100.7:8443"
  gateway_bootstrap_token = "mvb1.aaaaaaaaaaaaaaaaaaaaaaaa"
  entra_tenant_id         = "11111111-2222-3333-4444-555555555555"
  gateway_frontend_url    = "https://mazevault.bank.example"
}

run "the_pair_is_what_the_documentation_says" {
  command = plan

  # --- names are those of the convention ---
  assert {
    condition     = module.gwc.gateway_vault.name == "crdprointmzvgwckv01"
    error_message = "The vault of the gateway is ${module.gwc.gateway_vault.name}."
  }
  assert {
    condition     = module.gwc.project_vault.name == "crdprointmzvgwckv02"
    error_message = "The vault for projects is ${module.gwc.project_vault.name}."
  }
  assert {
    condition     = output.gwc_postgresql_name == "crd-pro-int-mzv-gwc-psql01"
    error_message = "The database server is ${output.gwc_postgresql_name}."
  }
  assert {
    condition     = output.gwc_redis_name == "crd-pro-int-mzv-gwc-redis01"
    error_message = "The cache is ${output.gwc_redis_name}."
  }
  assert {
    condition     = output.gwc_aks_cluster_name == "crd-pro-int-mzv-gwc-aks01"
    error_message = "The cluster is ${output.gwc_aks_cluster_name}."
  }
  assert {
    condition     = output.gwc_resource_group == "rg-crd-pro-int-mzv-gwc"
    error_message = "The resource group is ${output.gwc_resource_group}."
  }
  assert {
    condition     = output.enterprise_app_name == "APP_MZV_INT_PRO_01"
    error_message = "The app registration is ${output.enterprise_app_name}."
  }
  assert {
    condition     = output.acr_name == "crdprointmzvgwcacr01"
    error_message = "The registry is ${output.acr_name}."
  }
  assert {
    condition     = output.dr_resource_group == "rg-crd-pro-int-mzv-we" && output.dr_aks_cluster_name == "crd-pro-int-mzv-we-aks01" && output.dr_postgresql_name == "crd-pro-int-mzv-we-psql01"
    error_message = "The DR region has other names than the commands of an activation."
  }
  assert {
    condition     = module.gwc.location == "germanywestcentral" && module.dr[0].location == "westeurope"
    error_message = "A region is somewhere else."
  }

  # --- outputs are what the commands read ---
  assert {
    condition     = output.acr_login_server == azurerm_container_registry.this.login_server
    error_message = "acr_login_server is not the registry's."
  }
  assert {
    condition     = output.gwc_managed_identity_client_id == azurerm_user_assigned_identity.gateway.client_id
    error_message = "gwc_managed_identity_client_id is not the environment's identity."
  }
  assert {
    condition     = output.gwc_key_vault_gateway_id == module.gwc.gateway_vault.id && output.gwc_key_vault_project_id == module.gwc.project_vault.id
    error_message = "An output names another vault."
  }
  assert {
    condition     = output.helm_values_summary.kv_gateway_name == "crdprointmzvgwckv01" && output.helm_values_summary.kv_project_name == "crdprointmzvgwckv02"
    error_message = "helm_values_summary names other vaults."
  }
  assert {
    condition     = output.helm_values_summary.tenant_id == "11111111-2222-3333-4444-555555555555"
    error_message = "helm_values_summary has another tenant."
  }
  assert {
    condition     = output.helm_values_summary.gateway_environment == "PRO" && output.helm_values_summary.gateway_role == "primary" && output.dr_helm_values_summary.gateway_role == "dr-standby"
    error_message = "helm_values_summary has another environment or role."
  }
  assert {
    condition     = output.helm_values_summary.entra_redirect_uri == "https://mazevault.bank.example/api/v1/auth/sso/entra/callback"
    error_message = "The redirect URI is ${output.helm_values_summary.entra_redirect_uri}."
  }
  assert {
    condition     = keys(output.helm_values_summary.secrets) == ["DATABASE_URL", "GATEWAY_BOOTSTRAP_TOKEN", "MAZEVAULT_MASTER_KEY", "MAZEVAULT_SESSION_SECRET", "REDIS_URL"]
    error_message = "The chart would ask for other secrets: ${join(", ", keys(output.helm_values_summary.secrets))}."
  }
  assert {
    condition     = toset(values(output.helm_values_summary.secrets)) == toset(module.gwc.facts.gateway_vault.secrets)
    error_message = "The vault has other secrets than the chart asks for."
  }
  assert {
    condition     = toset(values(output.dr_helm_values_summary.secrets)) == toset(module.dr[0].facts.gateway_vault.secrets)
    error_message = "The vault of the DR region has other secrets than its chart asks for."
  }

  # --- the way out is the firewall table ---
  assert {
    condition = {
      for row in module.gwc.facts.rows : row.name => "${row.direction} ${row.access} ${row.protocol} ${row.from} ${join(",", row.to)} ${row.port}"
      } == {
      out-primary    = "Outbound Allow Tcp 10.60.0.0/22 198.51.100.7/32 8443"
      out-sign-in    = "Outbound Allow Tcp 10.60.0.0/22 AzureActiveDirectory 443"
      out-graph      = "Outbound Allow Tcp 10.60.0.0/22 AzureActiveDirectory 443"
      out-management = "Outbound Allow Tcp 10.60.0.0/22 AzureResourceManager 443"
      out-vaults     = "Outbound Allow Tcp 10.60.0.0/22 AzureKeyVault 443"
      out-postgresql = "Outbound Allow Tcp 10.60.0.0/22 10.60.4.0/22 5432"
      out-redis      = "Outbound Allow Tcp 10.60.0.0/22 10.60.4.0/22 6380"
    }
    error_message = "The rows are others than those of the firewall table."
  }
  assert {
    condition     = length(distinct([for row in module.gwc.facts.rows : row.priority])) == 7
    error_message = "Two rows have one priority, which Azure refuses."
  }
  assert {
    condition     = module.gwc.facts.guarded && module.gwc.facts.cluster.subnet_id == module.gwc.facts.subnets.cluster
    error_message = "The rows guard another subnet than the cluster's."
  }
  assert {
    condition     = length(module.gwc.facts.platform_rows) == 0
    error_message = "There are rows beside the table although nobody asked for them."
  }
  assert {
    condition     = length(module.dr[0].facts.rows) == 7
    error_message = "The DR region has other rows."
  }

  # --- the identity has the two roles and no other ---
  assert {
    condition = [
      for grant in module.gwc.facts.gateway_vault.roles : "${grant.who} ${grant.role}" if grant.principal == azurerm_user_assigned_identity.gateway.principal_id
    ] == ["gateway Key Vault Secrets User"]
    error_message = "The identity has another role on the vault with the gateway's own secrets."
  }
  assert {
    condition     = [for grant in module.gwc.facts.project_vault.roles : "${grant.who} ${grant.role}"] == ["gateway Key Vault Secrets Officer"]
    error_message = "Somebody has another role on the vault for project secrets."
  }
  assert {
    condition     = one(module.gwc.facts.project_vault.roles).principal == azurerm_user_assigned_identity.gateway.principal_id
    error_message = "Somebody else has the role on the vault for project secrets."
  }
  assert {
    condition     = [for grant in module.gwc.facts.gateway_vault.roles : grant.principal if grant.who == "operator"] == [data.azurerm_client_config.operator.object_id]
    error_message = "Somebody else may write the gateway's own secrets."
  }
  assert {
    condition = alltrue([
      for grant in concat(module.gwc.facts.gateway_vault.roles, module.gwc.facts.project_vault.roles, module.dr[0].facts.gateway_vault.roles, module.dr[0].facts.project_vault.roles) : grant.here
    ])
    error_message = "A role reaches further than its vault."
  }
  assert {
    condition = alltrue([
      for vault in [module.gwc.facts.gateway_vault, module.gwc.facts.project_vault, module.dr[0].facts.gateway_vault, module.dr[0].facts.project_vault] :
      vault.rbac && vault.purge_protection && vault.gateway_environment == "PRO"
    ])
    error_message = "A vault is without RBAC, purge protection or its environment."
  }
  assert {
    condition     = alltrue([for grant in module.gwc.facts.cluster.roles : grant.principal != azurerm_user_assigned_identity.gateway.principal_id])
    error_message = "The gateway's identity has a role of the cluster."
  }
  assert {
    condition     = sort([for grant in module.gwc.facts.cluster.roles : grant.role]) == tolist(["AcrPull", "Managed Identity Operator", "Network Contributor"])
    error_message = "The cluster has other roles than it needs."
  }

  # --- pods act as the identity by workload identity ---
  assert {
    condition     = module.gwc.facts.cluster.oidc_issuer && module.gwc.facts.cluster.workload_identity && module.gwc.facts.cluster.trusted_issuer
    error_message = "The cluster issues no tokens that Entra ID trusts."
  }
  assert {
    condition     = module.gwc.facts.cluster.trusted_subject == "system:serviceaccount:mazevault:mazevault-gateway"
    error_message = "Trusted is ${module.gwc.facts.cluster.trusted_subject}."
  }
  assert {
    condition     = module.gwc.facts.cluster.trusted_audience == tolist(["api://AzureADTokenExchange"])
    error_message = "Tokens for another audience are trusted."
  }
  assert {
    condition     = module.gwc.facts.cluster.trusting_identity == azurerm_user_assigned_identity.gateway.id && module.dr[0].facts.cluster.trusting_identity == azurerm_user_assigned_identity.gateway.id
    error_message = "The standby does not share the identity of its primary."
  }
  assert {
    condition     = module.gwc.facts.cluster.nodes == 2 && module.gwc.facts.cluster.vm_size == "Standard_D2s_v3" && module.gwc.facts.cluster.version == "1.32"
    error_message = "The cluster is another one than asked for."
  }

  # --- database and cache are reached inside only ---
  assert {
    condition     = !module.gwc.facts.database.public && module.gwc.facts.database.endpoint && module.gwc.facts.database.subnet_id == module.gwc.facts.subnets.endpoints
    error_message = "The database can be reached from outside, or not from inside."
  }
  assert {
    condition     = !module.gwc.facts.cache.public && module.gwc.facts.cache.endpoint && module.gwc.facts.cache.subnet_id == module.gwc.facts.subnets.endpoints
    error_message = "The cache can be reached from outside, or not from inside."
  }
  assert {
    condition     = !module.gwc.facts.cache.plain_port && module.gwc.facts.cache.minimum_tls == "1.2"
    error_message = "The cache answers without TLS, or with an old one."
  }
  assert {
    condition     = !azurerm_container_registry.this.admin_enabled
    error_message = "The registry has a password."
  }

  # --- logs go to log analytics ---
  assert {
    condition     = module.gwc.facts.cluster.logs_to == output.gwc_log_analytics_workspace_id && module.gwc.facts.gateway_vault.logs_to == output.gwc_log_analytics_workspace_id
    error_message = "Logs go somewhere else."
  }
  assert {
    condition     = contains(module.gwc.facts.cluster.log_streams, "Microsoft-ContainerLog")
    error_message = "The table of the documented query stays empty."
  }

  # --- the dr region stands by stopped ---
  assert {
    condition     = output.dr_power == { aks = "Stopped", postgresql = "Stopped", redis = "Absent" }
    error_message = "The DR region is ${jsonencode(output.dr_power)}."
  }
  assert {
    condition     = module.gwc.power.aks == null && module.gwc.power.postgresql == null && module.gwc.power.redis == "Running"
    error_message = "The primary region would be stopped or started: ${jsonencode(module.gwc.power)}."
  }
  assert {
    condition     = module.dr[0].facts.gateway_vault.replaced_later == tolist(["gateway-bootstrap-token"]) && length(module.gwc.facts.gateway_vault.replaced_later) == 0
    error_message = "A new token in the DR region's vault would be overwritten, or the primary's would not be written."
  }
  assert {
    condition     = contains(module.gwc.facts.gateway_vault.secrets, "gateway-bootstrap-token")
    error_message = "The primary's token is not in its vault."
  }
  assert {
    condition     = output.dr_copy_rule.rule.setup.dr_copy && output.dr_copy_rule.rule.direction == "push" && output.dr_copy_rule.integration.config.vault_id == module.dr[0].project_vault.id
    error_message = "Nothing feeds the vault of the DR region."
  }
  assert {
    condition     = output.helm_values_summary.project_vaults == [module.gwc.project_vault.uri, module.dr[0].project_vault.uri]
    error_message = "The gateway may not reach the vault that it copies to."
  }
  assert {
    condition     = [for copy in azurerm_container_registry.this.georeplications : copy.location] == ["westeurope"]
    error_message = "The DR region has no image when the primary region is gone."
  }
}
