variable "name" {
  description = "The name of the server."
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

variable "postgresql_version" {
  description = "The major version of PostgreSQL."
  type        = string
}

variable "sku_name" {
  description = "The size of the server, such as GP_Standard_D2ds_v5."
  type        = string
}

variable "storage_mb" {
  description = "The size of the disk in MiB."
  type        = number
}

variable "backup_retention_days" {
  description = "How many days backups are kept."
  type        = number
}

variable "subnet_id" {
  description = "The subnet of the private endpoint."
  type        = string
}

variable "dns_zone_id" {
  description = "The private DNS zone privatelink.postgres.database.azure.com."
  type        = string
}

variable "stoppable" {
  description = "True in a region that can be stopped."
  type        = bool
}

variable "stopped" {
  description = "True to stop the server, false to start it; only with stoppable."
  type        = bool
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
}
