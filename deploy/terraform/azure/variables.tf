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
  description = "The environment's managed identity: made in the workspace of the primary, used by both gateways."
  type        = string

  validation {
    condition     = can(regex("^[a-zA-Z0-9][a-zA-Z0-9_-]{2,127}$", var.managed_identity_name))
    error_message = "managed_identity_name must be 3 to 128 letters, digits, hyphens or underscores and begin with a letter or digit, such as mi-mazevault-npr."
  }
}

variable "project_key_vault_name" {
  description = "The environment's vault for project secrets; kv-mazevault-npr or kv-mazevault-pro when null, with -dr in the DR region."
  type        = string
  default     = null

  validation {
    condition     = var.project_key_vault_name == null || can(regex("^[a-zA-Z](-?[a-zA-Z0-9]){2,23}$", coalesce(var.project_key_vault_name, "kv-mazevault")))
    error_message = "project_key_vault_name must be 3 to 24 letters, digits and single hyphens, begin with a letter and end with a letter or digit."
  }

  validation {
    condition     = length(coalesce(var.project_key_vault_name, "kv-mazevault")) <= 24
    error_message = "project_key_vault_name is longer than 24 characters, which no Key Vault may be; shorten project_key_vault_name."
  }
}

variable "project_key_vault_names" {
  description = "Both vaults for project secrets, where project_key_vault_name is set: what the gateways of the environment may reach."
  type        = list(string)
  default     = []
}

variable "standby_mode" {
  description = "warm: the DR gateway runs and stands by. cold: cluster and database are stopped and there is no Redis until it is activated."
  type        = string
  default     = "warm"

  validation {
    condition     = contains(["warm", "cold"], var.standby_mode)
    error_message = "standby_mode is neither warm nor cold; set standby_mode to one of them."
  }
}

variable "workspace" {
  description = "The workspace that the plan is for, where workspaces are kept apart in another way than terraform workspace; terraform.workspace when null."
  type        = string
  default     = null
}

variable "company_code" {
  description = "Your 3-letter company code, the first part of every name."
  type        = string

  validation {
    condition     = can(regex("^[a-zA-Z][a-zA-Z0-9]{1,3}$", var.company_code))
    error_message = "company_code must be two to four letters or digits and begin with a letter, such as crd; a longer one makes names too long for a Key Vault."
  }
}

variable "project_code" {
  description = "The project's code in names."
  type        = string
  default     = "mzv"

  validation {
    condition     = can(regex("^[a-zA-Z0-9]{2,4}$", var.project_code))
    error_message = "project_code must be two to four letters or digits, such as mzv; a longer one makes names too long for a Key Vault."
  }
}

variable "location_zone" {
  description = "Network zone, int or dmz."
  type        = string
  default     = "int"

  validation {
    condition     = contains(["int", "dmz"], lower(var.location_zone))
    error_message = "location_zone is neither int nor dmz; set location_zone to one of them."
  }
}

variable "naming_convention_file" {
  description = "Your own naming convention, as `mazevault naming export` prints it; the default convention when null."
  type        = string
  default     = null
}

variable "primary_region" {
  description = "The region, as Azure spells it, such as germanywestcentral."
  type        = string
  default     = "germanywestcentral"

  validation {
    condition     = can(regex("^[a-z]+[0-9]?$", var.primary_region))
    error_message = "primary_region is not spelt as Azure spells a region; write small letters without spaces, such as germanywestcentral (az account list-locations)."
  }
}

variable "primary_region_code" {
  description = "The code of primary_region in names, such as gwc."
  type        = string
  default     = "gwc"

  validation {
    condition     = can(regex("^[a-zA-Z0-9]{2,4}$", var.primary_region_code))
    error_message = "primary_region_code must be two to four letters or digits, such as gwc; a longer one makes names too long for a Key Vault."
  }
}

variable "dr_region" {
  description = "The region, as Azure spells it, such as germanywestcentral."
  type        = string
  default     = "westeurope"

  validation {
    condition     = can(regex("^[a-z]+[0-9]?$", var.dr_region))
    error_message = "dr_region is not spelt as Azure spells a region; write small letters without spaces, such as westeurope (az account list-locations)."
  }
}

variable "dr_region_code" {
  description = "The code of dr_region in names, such as we."
  type        = string
  default     = "we"

  validation {
    condition     = can(regex("^[a-zA-Z0-9]{2,4}$", var.dr_region_code))
    error_message = "dr_region_code must be two to four letters or digits, such as we; a longer one makes names too long for a Key Vault."
  }
}

variable "kubernetes_version" {
  description = "The version of Kubernetes, such as 1.32."
  type        = string
  default     = "1.32"

  validation {
    condition     = can(regex("^1\\.[0-9]+(\\.[0-9]+)?$", var.kubernetes_version))
    error_message = "kubernetes_version must be written as 1.32 or 1.32.4; az aks get-versions lists what the region has."
  }
}

variable "aks_node_count" {
  description = "How many nodes the cluster has."
  type        = number
  default     = 2

  validation {
    condition     = var.aks_node_count >= 1 && var.aks_node_count <= 100 && var.aks_node_count == floor(var.aks_node_count)
    error_message = "aks_node_count must be a whole number from 1 to 100."
  }
}

variable "aks_vm_size" {
  description = "The size of a node."
  type        = string
  default     = "Standard_D2s_v3"

  validation {
    condition     = can(regex("^Standard_[A-Za-z0-9_-]+$", var.aks_vm_size))
    error_message = "aks_vm_size must be the name of a size such as Standard_D2s_v3 (az vm list-sizes)."
  }
}

variable "enable_redis" {
  description = "True for a Redis beside the gateway; a gateway works without one."
  type        = bool
  default     = true
}

variable "postgresql_version" {
  description = "The major version of PostgreSQL."
  type        = string
  default     = "16"

  validation {
    condition     = contains(["15", "16", "17"], var.postgresql_version)
    error_message = "postgresql_version must be 15, 16 or 17."
  }
}

variable "postgresql_sku" {
  description = "The size of the database server."
  type        = string
  default     = "GP_Standard_D2ds_v5"

  validation {
    condition     = can(regex("^(B|GP|MO)_Standard_[A-Za-z0-9_]+$", var.postgresql_sku))
    error_message = "postgresql_sku must begin with B_, GP_ or MO_ and name a size, such as GP_Standard_D2ds_v5."
  }
}

variable "postgresql_storage_mb" {
  description = "The size of the database's disk in MiB."
  type        = number
  default     = 32768

  validation {
    condition     = contains([32768, 65536, 131072, 262144, 524288, 1048576], var.postgresql_storage_mb)
    error_message = "postgresql_storage_mb must be a size that Azure sells: 32768, 65536, 131072, 262144, 524288 or 1048576."
  }
}

variable "postgresql_backup_days" {
  description = "How many days backups of the database are kept."
  type        = number
  default     = 14

  validation {
    condition     = var.postgresql_backup_days >= 7 && var.postgresql_backup_days <= 35
    error_message = "postgresql_backup_days must be from 7 to 35."
  }
}

variable "acr_sku" {
  description = "The tier of the container registry; Premium also keeps the images in the DR region."
  type        = string
  default     = "Standard"

  validation {
    condition     = contains(["Basic", "Standard", "Premium"], var.acr_sku)
    error_message = "acr_sku must be Basic, Standard or Premium."
  }
}

variable "log_retention_days" {
  description = "How many days Log Analytics keeps logs."
  type        = number
  default     = 90

  validation {
    condition     = var.log_retention_days >= 30 && var.log_retention_days <= 730
    error_message = "log_retention_days must be from 30 to 730."
  }
}

variable "container_log_v2" {
  description = "False for the table ContainerLog, which the query of the documentation reads; true for ContainerLogV2."
  type        = bool
  default     = false
}

variable "address_space" {
  description = "The addresses of the virtual network, in CIDR form: /22 or wider."
  type        = string
  default     = "10.64.0.0/20"

  validation {
    condition     = can(cidrsubnet(var.address_space, 2, 1)) && tonumber(try(split("/", var.address_space)[1], "32")) <= 22
    error_message = "address_space must be a network in CIDR form of /22 or wider, such as 10.64.0.0/20."
  }
}

variable "peer_subnet_ids" {
  description = "Subnets of the environment's other gateway; needed for the copy rule when operator_addresses closes the vaults."
  type        = list(string)
  default     = []
}

variable "restrict_egress" {
  description = "True to close the way out of the cluster for all but the firewall table and what the cluster itself needs."
  type        = bool
  default     = false
}

variable "primary_backend_addresses" {
  description = "Where the Primary is: addresses in CIDR form. Any address when empty and primary_backend_url has a name."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for address in var.primary_backend_addresses : can(cidrhost(address, 0))])
    error_message = "primary_backend_addresses must be in CIDR form, such as 203.0.113.10/32."
  }
}

variable "operator_addresses" {
  description = "Addresses that may reach the vaults and the API server of the cluster, in CIDR form; any address when empty."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for address in var.operator_addresses : can(cidrhost(address, 0))])
    error_message = "operator_addresses must be in CIDR form, such as 198.51.100.0/24; the machine that runs terraform must be in it."
  }
}

variable "primary_backend_url" {
  description = "The Primary, as https://host:port. Set TF_VAR_primary_backend_url."
  type        = string

  validation {
    condition     = can(regex("^https://[^/:@ ]+(:[0-9]{1,5})?/?$", var.primary_backend_url))
    error_message = "primary_backend_url must be https://host:port without a path, such as https://your-primary.example.com:8443."
  }
}

variable "gateway_bootstrap_token" {
  description = "The token of the bootstrap package that the Primary gave. Set TF_VAR_gateway_bootstrap_token."
  type        = string
  sensitive   = true

  validation {
    condition     = length(var.gateway_bootstrap_token) >= 16 && length(var.gateway_bootstrap_token) <= 2048 && !can(regex("[[:space:]]", var.gateway_bootstrap_token))
    error_message = "gateway_bootstrap_token must be the value of token in the answer of POST /api/v1/gateways/bootstrap, whole and without spaces or line ends."
  }
}

variable "gateway_frontend_url" {
  description = "Where people reach the gateway. Set TF_VAR_gateway_frontend_url."
  type        = string

  validation {
    condition     = can(regex("^https://[^/@ ]+/?$", var.gateway_frontend_url))
    error_message = "gateway_frontend_url must be https://host without a path, such as https://mazevault.your-domain.internal."
  }
}

variable "entra_tenant_id" {
  description = "ENTRA_TENANT_ID: the tenant of sign-in and vaults. Set TF_VAR_entra_tenant_id."
  type        = string

  validation {
    condition     = can(regex("^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$", var.entra_tenant_id))
    error_message = "entra_tenant_id must be the Tenant ID of Entra ID, Overview: 8-4-4-4-12 hexadecimal digits."
  }
}

variable "entra_client_id" {
  description = "ENTRA_CLIENT_ID: the app registration, Application (client) ID; empty for no sign-in at the gateway."
  type        = string
  default     = ""

  validation {
    condition     = var.entra_client_id == "" || can(regex("^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$", var.entra_client_id))
    error_message = "entra_client_id must be the Application (client) ID of the app registration, Overview: 8-4-4-4-12 hexadecimal digits."
  }
}

variable "entra_client_secret" {
  description = "ENTRA_CLIENT_SECRET: the Value of the client secret. Set TF_VAR_entra_client_secret."
  type        = string
  default     = ""
  sensitive   = true

  validation {
    condition     = !can(regex("^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$", var.entra_client_secret))
    error_message = "entra_client_secret is the Secret ID; it must be the Value of the client secret, which is shown once."
  }
}

variable "entra_redirect_uri" {
  description = "ENTRA_REDIRECT_URI, as it stands in the app registration; made of gateway_frontend_url when empty."
  type        = string
  default     = ""

  validation {
    condition     = var.entra_redirect_uri == "" || can(regex("^https://[^/ ]+/api/v1/auth/sso/entra/callback$", var.entra_redirect_uri))
    error_message = "entra_redirect_uri must be https://{your-api-domain}/api/v1/auth/sso/entra/callback."
  }
}

variable "subscription_id" {
  description = "The subscription; ARM_SUBSCRIPTION_ID says it when this is null."
  type        = string
  default     = null
}

variable "kubernetes_namespace" {
  description = "The namespace of the gateway."
  type        = string
  default     = "mazevault"

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.kubernetes_namespace))
    error_message = "kubernetes_namespace must be small letters, digits and hyphens, such as mazevault."
  }
}

variable "service_account_name" {
  description = "The service account of the gateway's pods; no other one is trusted by the managed identity."
  type        = string
  default     = "mazevault-gateway"

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$", var.service_account_name))
    error_message = "service_account_name must be small letters, digits and hyphens, such as mazevault-gateway."
  }
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
  default     = {}
}
