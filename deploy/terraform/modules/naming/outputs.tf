output "names" {
  description = "The name of each resource, by its type."
  value       = local.names

  precondition {
    condition     = !contains(local.convention.families[var.is_nonprod ? "production" : "non_production"], lower(var.environment))
    error_message = "is_nonprod does not fit the environment ${var.environment}; set is_nonprod = ${!var.is_nonprod}."
  }
  precondition {
    condition     = length(local.too_narrow) == 0
    error_message = "number ${var.number} has more digits than the pattern of: ${join(", ", local.too_narrow)}."
  }
  precondition {
    condition     = length(local.bad_lengths) == 0
    error_message = "names of a length that Azure refuses: ${join(", ", local.bad_lengths)}; shorten company_code, project_code, environment or region_code."
  }
  precondition {
    condition     = length(local.bad_forms) == 0
    error_message = "names of a form that Azure refuses: ${join(", ", local.bad_forms)}; change company_code, or the convention that convention_file has."
  }
  precondition {
    condition     = length(local.reserved) == 0
    error_message = "names with a word that Azure reserves: ${join(", ", local.reserved)}; change company_code or project_code."
  }
}
