variable "name" {
  description = "The name of the cluster."
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

variable "kubernetes_version" {
  description = "Such as 1.32."
  type        = string
}

variable "node_count" {
  description = "How many nodes."
  type        = number
}

variable "vm_size" {
  description = "The size of a node, such as Standard_D2s_v3."
  type        = string
}

variable "subnet_id" {
  description = "The subnet of the nodes."
  type        = string
}

variable "pod_addresses" {
  description = "The addresses of pods, which no network beside the cluster knows."
  type        = string
}

variable "control_plane_identity_name" {
  description = "The name of the identity that runs the cluster."
  type        = string
}

variable "kubelet_identity_name" {
  description = "The name of the identity that pulls images."
  type        = string
}

variable "workload_identity_id" {
  description = "The environment's managed identity, which the gateway's pods act as."
  type        = string
}

variable "namespace" {
  description = "The namespace of the gateway."
  type        = string
}

variable "service_account" {
  description = "The service account of the gateway."
  type        = string
}

variable "registry_id" {
  description = "The registry that images are pulled from."
  type        = string
}

variable "log_analytics_workspace_id" {
  description = "Where container logs go."
  type        = string
}

variable "container_log_v2" {
  description = "True for the table ContainerLogV2, false for ContainerLog."
  type        = bool
}

variable "operator_addresses" {
  description = "Who may reach the cluster's API server; anybody with a credential when empty."
  type        = list(string)
}

variable "stoppable" {
  description = "True in a region that can be stopped."
  type        = bool
}

variable "stopped" {
  description = "True to stop the cluster, false to start it; only with stoppable."
  type        = bool
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
}
