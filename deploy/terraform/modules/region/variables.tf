variable "naming" {
  description = "What names are made of, but for the region."
  type = object({
    company_code    = string
    project_code    = string
    environment     = string
    is_nonprod      = bool
    location_zone   = string
    convention_file = optional(string)
  })
}

variable "location" {
  description = "The region, as Azure spells it."
  type        = string
}

variable "region_code" {
  description = "The region's code in names."
  type        = string
}

variable "gateway_environment" {
  description = "NPR or PRO."
  type        = string
}

variable "gateway_role" {
  description = "primary or dr-standby."
  type        = string
}

variable "identity" {
  description = "The environment's managed identity, and which environment it is of."
  type = object({
    id                  = string
    client_id           = string
    principal_id        = string
    gateway_environment = string
  })
}

variable "operator_object_id" {
  description = "Who applies this configuration: the only one to write the gateway's own secrets."
  type        = string
}

variable "tenant_id" {
  description = "The tenant of vaults and sign-in."
  type        = string
}

variable "registry_id" {
  description = "The registry that images are pulled from."
  type        = string
}

variable "address_space" {
  description = "The addresses of the region's virtual network: a quarter for nodes, a quarter for endpoints, half is left."
  type        = string
}

variable "primary_backend_url" {
  description = "The Primary, as https://host:port."
  type        = string
}

variable "primary_backend_addresses" {
  description = "Where the Primary is, as addresses or CIDR."
  type        = list(string)
}

variable "restrict_egress" {
  description = "True to close the way out for everything else."
  type        = bool
}

variable "kubernetes_version" {
  description = "Such as 1.32."
  type        = string
}

variable "aks_node_count" {
  description = "How many nodes."
  type        = number
}

variable "aks_vm_size" {
  description = "The size of a node."
  type        = string
}

variable "enable_redis" {
  description = "True for a Redis beside the gateway."
  type        = bool
}

variable "postgresql_version" {
  description = "The major version of PostgreSQL."
  type        = string
}

variable "postgresql_sku" {
  description = "The size of the database server."
  type        = string
}

variable "postgresql_storage_mb" {
  description = "The size of the database's disk in MiB."
  type        = number
}

variable "postgresql_backup_days" {
  description = "How many days backups are kept."
  type        = number
}

variable "project_key_vault_name" {
  description = "The vault for project secrets; by the convention when null."
  type        = string
  default     = null
}

variable "gateway_bootstrap_token" {
  description = "The package that the gateway enrols with."
  type        = string
  sensitive   = true
}

variable "token_at_activation" {
  description = "True where the token is made when the region is activated: the vault then has a place for it, and nothing overwrites what is put there."
  type        = bool
}

variable "entra_client_secret" {
  description = "The secret of the app registration."
  type        = string
  sensitive   = true
}

variable "has_entra_client_secret" {
  description = "Whether there is one; the answer is no secret."
  type        = bool
}

variable "peer_subnet_ids" {
  description = "Subnets of the other region, whose gateway runs the copy rule into this vault or out of it."
  type        = list(string)
}

variable "operator_addresses" {
  description = "Addresses that may reach the vaults and the cluster's API server; any address when empty."
  type        = list(string)
}

variable "log_retention_days" {
  description = "How many days logs are kept."
  type        = number
}

variable "container_log_v2" {
  description = "True for the table ContainerLogV2, false for ContainerLog."
  type        = bool
}

variable "namespace" {
  description = "The namespace of the gateway."
  type        = string
}

variable "service_account" {
  description = "The service account of the gateway."
  type        = string
}

variable "stoppable" {
  description = "True in a region that can be stopped."
  type        = bool
}

variable "stopped" {
  description = "True to stop cluster and database and have no Redis."
  type        = bool
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
}
