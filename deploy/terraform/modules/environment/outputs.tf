output "name" {
  description = "NPR or PRO."
  value       = local.environment

  precondition {
    condition     = var.workspace == local.workspace
    error_message = "gateway_environment ${local.environment} with gateway_role ${var.gateway_role} belongs into the workspace ${local.workspace}, and this is ${var.workspace}; run: terraform workspace select -or-create ${local.workspace}"
  }
  precondition {
    condition     = length(local.foreign.managed_identity_name) == 0
    error_message = "managed_identity_name ${var.managed_identity_name} is an identity of ${join(", ", local.foreign.managed_identity_name)}, and gateway_environment is ${local.environment}; set managed_identity_name to the identity of ${local.environment}, such as mi-mazevault-${lower(local.environment)}."
  }
  precondition {
    condition     = length(local.foreign.project_key_vault_name) == 0
    error_message = "project_key_vault_name ${var.project_key_vault_name} is a vault of ${join(", ", local.foreign.project_key_vault_name)}, and gateway_environment is ${local.environment}; set project_key_vault_name to the vault of ${local.environment}, such as kv-mazevault-${lower(local.environment)}."
  }
}

output "standby" {
  description = "True in the workspace of the DR gateway."
  value       = local.standby
}
