variable "company_code" {
  description = "The company's code, such as crd."
  type        = string

  validation {
    condition     = can(regex("^[a-zA-Z0-9]+$", var.company_code))
    error_message = "company_code may have letters and digits only; separators belong to the pattern."
  }
}

variable "project_code" {
  description = "The project's code, such as mzv."
  type        = string

  validation {
    condition     = can(regex("^[a-zA-Z0-9]+$", var.project_code))
    error_message = "project_code may have letters and digits only; separators belong to the pattern."
  }
}

variable "environment" {
  description = "The environment's code, such as pro or dev."
  type        = string

  validation {
    condition     = can(regex("^[a-zA-Z0-9]+$", var.environment))
    error_message = "environment may have letters and digits only; separators belong to the pattern."
  }
}

variable "is_nonprod" {
  description = "True for DEV, ITG, TST and other non-production environments."
  type        = bool
}

variable "location_zone" {
  description = "The network zone, int or dmz."
  type        = string

  validation {
    condition     = can(regex("^[a-zA-Z0-9]+$", var.location_zone))
    error_message = "location_zone may have letters and digits only; separators belong to the pattern."
  }
}

variable "region_code" {
  description = "The region's code, such as gwc or we."
  type        = string

  validation {
    condition     = can(regex("^[a-zA-Z0-9]+$", var.region_code))
    error_message = "region_code may have letters and digits only; separators belong to the pattern."
  }
}

variable "number" {
  description = "Which one of its kind, from 1."
  type        = number
  default     = 1

  validation {
    condition     = var.number >= 1 && var.number == floor(var.number)
    error_message = "number must be a whole number from 1."
  }
}

variable "convention_file" {
  description = "Your own convention, as printed by `mazevault naming export --template FILE`; the default convention when null."
  type        = string
  default     = null
}
