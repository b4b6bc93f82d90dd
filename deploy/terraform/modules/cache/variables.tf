variable "name" {
  description = "The name of the cache."
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

variable "subnet_id" {
  description = "The subnet of the private endpoint."
  type        = string
}

variable "dns_zone_id" {
  description = "The private DNS zone privatelink.redis.cache.windows.net."
  type        = string
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
}
