variable "name" {
  description = "The name of the virtual network."
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

variable "address_space" {
  description = "The addresses of the virtual network, in CIDR form."
  type        = string
}

variable "cluster_subnet" {
  description = "The addresses of the cluster's nodes, a part of address_space."
  type        = string
}

variable "pod_addresses" {
  description = "The addresses of pods, which no network beside the cluster knows."
  type        = string
}

variable "endpoint_subnet" {
  description = "The addresses of the private endpoints, a part of address_space."
  type        = string
}

variable "primary_backend_addresses" {
  description = "Where the Primary is, as addresses or CIDR; [\"*\"] for anywhere."
  type        = list(string)
}

variable "primary_backend_port" {
  description = "The TCP port of the Primary."
  type        = string
}

variable "restrict_egress" {
  description = "True to close the way out for all but the rows and what the cluster itself needs."
  type        = bool
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
}
