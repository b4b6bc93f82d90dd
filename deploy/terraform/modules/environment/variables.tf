variable "workspace" {
  description = "The workspace that the plan is made in."
  type        = string
}

variable "gateway_environment" {
  description = "NPR or PRO: the environment whose secrets the gateway may reach."
  type        = string

  validation {
    condition     = contains(["NPR", "PRO"], upper(var.gateway_environment))
    error_message = "gateway_environment is neither NPR nor PRO; set gateway_environment to the environment of the workspace."
  }
}

variable "gateway_role" {
  description = "primary, or dr-standby for the gateway in the DR region."
  type        = string

  validation {
    condition     = contains(["primary", "dr-standby"], var.gateway_role)
    error_message = "gateway_role is neither primary nor dr-standby; set gateway_role to one of them."
  }
}

variable "managed_identity_name" {
  description = "The environment's managed identity, shared by both its gateways."
  type        = string
}

variable "project_key_vault_name" {
  description = "The environment's vault for project secrets."
  type        = string
}
