# Which gateway a workspace is for, and that nothing of another environment can get into it. Nothing of Azure is needed to say so,
# so a wrong word ends the plan before any resource is looked at.

locals {
  environment = upper(var.gateway_environment)
  standby     = var.gateway_role == "dr-standby"
  workspace   = "${lower(local.environment)}${local.standby ? "-dr" : ""}"

  others = setsubtract(["NPR", "PRO"], [local.environment])
  foreign = {
    for variable, name in { managed_identity_name = var.managed_identity_name, project_key_vault_name = var.project_key_vault_name } :
    variable => [for other in local.others : other if can(regex("(^|[^a-z0-9])${lower(other)}([^a-z0-9]|$)", lower(name)))]
  }
}
