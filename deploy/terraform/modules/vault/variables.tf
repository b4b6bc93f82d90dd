variable "name" {
  description = "The name of the vault."
  type        = string
}

variable "location" {
  description = "The region, as Azure spells it."
  type        = string
}

variable "resource_group_name" {
  description = "The resource group of the region."
  type        = string
}

variable "tenant_id" {
  description = "The tenant that the vault trusts."
  type        = string
}

variable "gateway_environment" {
  description = "NPR or PRO: whose secrets lie here."
  type        = string
}

variable "grants" {
  description = "Who has which role here, by a word of ours; each with the environment it is of."
  type = map(object({
    principal_id        = string
    principal_type      = optional(string)
    role                = string
    purpose             = string
    gateway_environment = string
  }))
}

variable "secret_names" {
  description = "The names of secrets, which are no secret."
  type        = list(string)
  default     = []
}

variable "secrets" {
  description = "The value of each secret, by its name."
  type        = map(string)
  default     = {}
  sensitive   = true
}

variable "replaced_later" {
  description = "Names of secrets that are made empty here and set by somebody else."
  type        = list(string)
  default     = []
}

variable "subnet_ids" {
  description = "Subnets that reach the vault when operator_addresses closes it."
  type        = list(string)
}

variable "operator_addresses" {
  description = "Addresses that may reach the vault beside the subnets; any address when empty."
  type        = list(string)
}

variable "log_analytics_workspace_id" {
  description = "Where the vault's audit log goes."
  type        = string
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
}
