# The guard between environments needs nothing of Azure, so it is tried in every combination.

variables {
  workspace              = "npr"
  gateway_environment    = "NPR"
  gateway_role           = "primary"
  managed_identity_name  = "mi-mazevault-npr"
  project_key_vault_name = "kv-mazevault-npr"
}

run "npr_primary" {
  command = plan
  variables {
    workspace              = "npr"
    gateway_environment    = "npr"
    gateway_role           = "primary"
    managed_identity_name  = "mi-mazevault-npr"
    project_key_vault_name = "kv-mazevault-npr"
  }

  assert {
    condition     = output.name == "NPR" && output.standby == false
    error_message = "The workspace is taken for another one."
  }
}

run "npr_dr_standby" {
  command = plan
  variables {
    workspace              = "npr-dr"
    gateway_environment    = "npr"
    gateway_role           = "dr-standby"
    managed_identity_name  = "mi-mazevault-npr"
    project_key_vault_name = "kv-mazevault-npr"
  }

  assert {
    condition     = output.name == "NPR" && output.standby == true
    error_message = "The workspace is taken for another one."
  }
}

run "pro_primary" {
  command = plan
  variables {
    workspace              = "pro"
    gateway_environment    = "pro"
    gateway_role           = "primary"
    managed_identity_name  = "mi-mazevault-pro"
    project_key_vault_name = "kv-mazevault-pro"
  }

  assert {
    condition     = output.name == "PRO" && output.standby == false
    error_message = "The workspace is taken for another one."
  }
}

run "pro_dr_standby" {
  command = plan
  variables {
    workspace              = "pro-dr"
    gateway_environment    = "pro"
    gateway_role           = "dr-standby"
    managed_identity_name  = "mi-mazevault-pro"
    project_key_vault_name = "kv-mazevault-pro"
  }

  assert {
    condition     = output.name == "PRO" && output.standby == true
    error_message = "The workspace is taken for another one."
  }
}

run "a_pro_identity_in_an_npr_workspace" {
  command = plan
  variables {
    managed_identity_name = "mi-mazevault-pro"
  }
  expect_failures = [output.name]
}

run "a_pro_identity_in_other_letters" {
  command = plan
  variables {
    managed_identity_name = "PRO_mi-mazevault"
  }
  expect_failures = [output.name]
}

run "a_pro_vault_in_an_npr_workspace" {
  command = plan
  variables {
    project_key_vault_name = "kv-mazevault-pro-dr"
  }
  expect_failures = [output.name]
}

run "an_npr_identity_in_a_pro_workspace" {
  command = plan
  variables {
    workspace              = "pro"
    gateway_environment    = "PRO"
    project_key_vault_name = "kv-mazevault-pro"
  }
  expect_failures = [output.name]
}

run "npr_in_the_workspace_of_pro" {
  command = plan
  variables {
    workspace = "pro"
  }
  expect_failures = [output.name]
}

run "a_primary_in_the_workspace_of_the_standby" {
  command = plan
  variables {
    workspace = "npr-dr"
  }
  expect_failures = [output.name]
}

run "a_standby_in_the_workspace_of_the_primary" {
  command = plan
  variables {
    gateway_role = "dr-standby"
  }
  expect_failures = [output.name]
}

run "the_default_workspace" {
  command = plan
  variables {
    workspace = "default"
  }
  expect_failures = [output.name]
}

run "unknown_words" {
  command = plan
  variables {
    gateway_environment = "UAT"
    gateway_role        = "standby"
  }
  expect_failures = [var.gateway_environment, var.gateway_role]
}

run "a_word_that_only_contains_another_environment" {
  command = plan
  variables {
    managed_identity_name = "mi-product-npr"
  }

  assert {
    condition     = output.name == "NPR"
    error_message = "product is not PRO."
  }
}
