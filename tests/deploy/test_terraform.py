"""The deployment has what its documentation names, refuses what is wrong, and is what its own tests say.

The first half reads the files and needs no program; the second runs Terraform where there is one.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import hcl2
import pytest

from cli.stack.layout import ROOT
from integrations.azure.node_secrets import NAMES
from tests.deploy.conftest import TERRAFORM, TESTS, TESTS_SINCE, Workspace

PAIR, FOUR = TERRAFORM / "azure-gateway", TERRAFORM / "azure"
ROOTS = [pytest.param(PAIR, id="azure-gateway"), pytest.param(FOUR, id="azure")]
GUIDE = ROOT / "docs" / "operations" / "azure.md"

# What the deployment guide names, in its order.
TFVARS = {
    "company_code": "crd", "project_code": "mzv", "environment": "pro", "is_nonprod": False, "location_zone": "int",
    "primary_region": "germanywestcentral", "primary_region_code": "gwc", "dr_region": "westeurope", "dr_region_code": "we",
    "dr_enabled": True, "kubernetes_version": "1.32", "aks_node_count": 2, "aks_vm_size": "Standard_D2s_v3", "enable_redis": True,
}  # fmt: skip
FROM_THE_SHELL = ["primary_backend_url", "gateway_bootstrap_token", "entra_tenant_id", "gateway_frontend_url"]
RECORDED = ["entra_tenant_id", "entra_client_id", "entra_client_secret", "entra_redirect_uri"]
OUTPUTS = [
    "acr_name", "acr_login_server", "gwc_resource_group", "gwc_aks_cluster_name", "gwc_managed_identity_client_id",
    "gwc_key_vault_gateway_id", "helm_values_summary",
]  # fmt: skip
SUMMARY = ["kv_gateway_name", "tenant_id"]
OF_A_WORKSPACE = ["gateway_environment", "gateway_role", "managed_identity_name"]
SECRET = {"gateway_bootstrap_token", "entra_client_secret"}


@cache
def blocks(folder: Path, kind: str) -> dict[str, dict[str, Any]]:
    """The blocks of one kind in a folder, by name."""
    found = [block for file in sorted(folder.glob("*.tf")) for block in hcl2.loads(file.read_text()).get(kind, [])]
    return {name.strip('"'): body for block in found for name, body in block.items()}


def values(file: Path) -> dict[str, Any]:
    """The values that a file of values sets."""
    found = hcl2.loads(file.read_text())
    return {name: text(value) if isinstance(value, str) else value for name, value in found.items() if not name.startswith("__")}


def text(value: str) -> str:
    return value.strip('"')


class TestNames:
    def test_the_region_pair_has_every_variable_of_the_guide(self) -> None:
        assert set(blocks(PAIR, "variable")) >= {*TFVARS, *FROM_THE_SHELL, *RECORDED}

    def test_the_region_pair_has_every_output_of_the_guide(self) -> None:
        assert set(blocks(PAIR, "output")) >= set(OUTPUTS)

    def test_the_summary_has_what_the_chart_is_told(self) -> None:
        summary = blocks(TERRAFORM / "modules" / "region", "output")["helm_values_summary"]["value"]
        assert set(summary if isinstance(summary, dict) else re.findall(r"(\w+) =", summary)) >= set(SUMMARY)

    def test_secrets_have_the_names_under_which_a_node_looks_for_them(self) -> None:
        region = (TERRAFORM / "modules" / "region" / "outputs.tf").read_text()
        told = dict(re.findall(r'([A-Z_]{8,}) += "([a-z-]+)"', region))
        assert len(told) == 6
        assert told.items() <= NAMES.items()

    def test_the_example_says_what_the_guide_says(self) -> None:
        assert values(PAIR / "terraform.tfvars.example") == TFVARS

    def test_a_workspace_has_every_variable_of_the_guide(self) -> None:
        assert set(blocks(FOUR, "variable")) >= {*OF_A_WORKSPACE, *FROM_THE_SHELL, *RECORDED}

    def test_a_workspace_needs_no_more_than_the_guide_gives_it(self) -> None:
        given = {*OF_A_WORKSPACE, *FROM_THE_SHELL, *TFVARS}
        assert {name for name, body in blocks(FOUR, "variable").items() if "default" not in body} <= given
        assert {name for name, body in blocks(PAIR, "variable").items() if "default" not in body} <= {*FROM_THE_SHELL, *TFVARS}

    def test_the_example_of_a_workspace_sets_variables_only(self) -> None:
        assert set(values(FOUR / "terraform.tfvars.example")) <= set(blocks(FOUR, "variable"))

    @pytest.mark.parametrize("root", ROOTS)
    def test_where_the_state_lies_is_said_at_init(self, root: Path) -> None:
        said = hcl2.loads((root / "versions.tf").read_text())["terraform"][0]
        assert [{name.strip('"') for name in backend} for backend in said["backend"]] == [{"azurerm"}]
        body = next(iter(said["backend"][0].values()))
        assert not {key for key in body if not key.startswith("__")}
        assert text(said["required_version"]) == ">= 1.5"


class TestVariables:
    @pytest.mark.parametrize("root", ROOTS)
    def test_each_says_what_it_is_and_each_refusal_names_it(self, root: Path) -> None:
        for name, body in blocks(root, "variable").items():
            assert text(body["description"]), name
            for rule in body.get("validation", []):
                assert text(rule["error_message"]).startswith(f"{name} "), name
                assert len(text(rule["error_message"])) > len(name) + 20, name

    @pytest.mark.parametrize("root", ROOTS)
    def test_all_that_can_be_wrong_by_itself_is_checked(self, root: Path) -> None:
        free = {"naming_convention_file", "subscription_id", "tags", "workspace", "peer_subnet_ids", "project_key_vault_names"}
        unchecked = {
            name for name, body in blocks(root, "variable").items() if "validation" not in body and body["type"] != "bool"
        }
        assert unchecked <= free

    @pytest.mark.parametrize("root", ROOTS)
    def test_secrets_are_hidden_and_have_no_default_value(self, root: Path) -> None:
        hidden = {name: body for name, body in blocks(root, "variable").items() if body.get("sensitive")}
        assert set(hidden) == SECRET
        assert all(body.get("default") in (None, '""') for body in hidden.values())

    def test_what_both_deployments_have_is_the_same_in_both(self) -> None:
        pair, four = blocks(PAIR, "variable"), blocks(FOUR, "variable")
        different = {name for name in pair.keys() & four.keys() if pair[name] != four[name]}
        assert different == {"acr_sku"}  # only one registry serves two regions


class TestFiles:
    def test_no_tests_lie_where_an_older_terraform_would_read_them(self) -> None:
        assert [str(file) for file in TERRAFORM.rglob("*.tftest.hcl") if file.parent.name != TESTS] == []

    def test_no_program_no_state_and_no_values_are_kept(self) -> None:
        listed = subprocess.run(
            ["git", "ls-files", "deploy"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split()
        refused = re.compile(r"(\.tfstate|\.terraform/|terraform-provider-|\.tfvars$|tfplan$|\.exe$)")
        assert [name for name in listed if refused.search(name)] == []

    def test_every_name_in_the_guide_exists(self) -> None:
        guide = GUIDE.read_text()
        outputs = {*blocks(PAIR, "output"), *blocks(FOUR, "output")}
        variables = {*blocks(PAIR, "variable"), *blocks(FOUR, "variable")}
        assert set(re.findall(r"terraform output (?:-raw|-json) (\w+)", guide)) <= outputs
        assert set(re.findall(r"TF_VAR_(\w+)", guide)) | set(re.findall(r'-var="?(\w+)=', guide)) <= variables
        assert {path for path in re.findall(r"deploy/terraform/[\w/.-]*\w", guide) if not (ROOT / path).exists()} == set()

    def test_every_variable_and_output_is_told_in_the_guide_or_has_a_default(self) -> None:
        guide = GUIDE.read_text()
        for root in (PAIR, FOUR):
            assert {
                name for name, body in blocks(root, "variable").items() if "default" not in body and name not in guide
            } == set()


class TestTerraform:
    def test_the_files_are_formatted(self, deployment: Workspace) -> None:
        done = deployment.run("fmt", "-check", "-recursive", "-diff", ".")
        assert done.returncode == 0, done.stdout

    @pytest.mark.parametrize("root", ["azure-gateway", "azure"])
    def test_the_configuration_is_valid_for_the_schema_of_azurerm(self, deployment: Workspace, root: str) -> None:
        place = deployment.below(root)
        place.init()
        done = place.run("validate")
        assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize("module", ["modules/environment", "modules/vault"])
    def test_no_environment_gets_into_another_one(self, deployment: Workspace, module: str) -> None:
        hold_their_tests(deployment.below(module))

    @pytest.mark.deploy
    @pytest.mark.parametrize("root", ["azure-gateway", "azure"])
    def test_what_would_be_deployed_is_what_the_guide_says(self, deployment: Workspace, root: str) -> None:
        hold_their_tests(deployment.below(root))


@pytest.fixture
def workspaces(deployment: Workspace, tmp_path: Path) -> Workspace:
    """The four workspaces with their state on this disk; only where the state lies is another than in the files."""
    return with_own_state(deployment, tmp_path, "azure")


def with_own_state(deployment: Workspace, folder: Path, root: str) -> Workspace:
    shutil.copytree(deployment.folder, folder / "terraform", ignore=shutil.ignore_patterns(".terraform*"))
    place = deployment.at(folder / "terraform" / root)
    (place.folder / "backend_override.tf").write_text('terraform {\n  backend "local" {}\n}\n')
    done = place.run("init", "-input=false")
    assert done.returncode == 0, done.stderr
    return place


FROM_A_SHELL = {
    "TF_VAR_primary_backend_url": "https://your-primary.example.com:8443",
    "TF_VAR_gateway_bootstrap_token": "token-from-step-1",
    "TF_VAR_entra_tenant_id": "11111111-2222-3333-4444-555555555555",
    "TF_VAR_gateway_frontend_url": "https://mazevault.your-domain.internal",
}


@pytest.mark.deploy
def test_the_commands_of_the_guide_plan_the_region_pair(deployment: Workspace, tmp_path: Path) -> None:
    place = with_own_state(deployment, tmp_path, "azure-gateway")
    shutil.copy(PAIR / "terraform.tfvars.example", place.folder / "terraform.tfvars")
    done = place.run("plan", "-input=false", "-no-color", "-var-file=terraform.tfvars", "-out=tfplan", **FROM_A_SHELL)
    assert done.returncode == 0, done.stderr
    assert re.search(r"Plan: \d+ to add, 0 to change, 0 to destroy", done.stdout)
    assert "token-from-step-1" not in done.stdout + done.stderr


@pytest.mark.deploy
class TestWorkspaces:
    def plan(self, place: Workspace, workspace: str, environment: str, identity: str) -> subprocess.CompletedProcess[str]:
        """The guide's command, but for `plan`; the workspace must be there."""
        given = [f"-var=gateway_environment={environment}", "-var=gateway_role=primary", f"-var=managed_identity_name={identity}"]
        shell = {**FROM_A_SHELL, "TF_VAR_company_code": "crd", "TF_WORKSPACE": workspace}
        return place.run("plan", "-input=false", "-no-color", *given, **shell)

    def test_the_command_of_the_guide_plans_a_gateway(self, workspaces: Workspace) -> None:
        assert workspaces.run("workspace", "new", "npr").returncode == 0
        done = self.plan(workspaces, "npr", "NPR", "mi-mazevault-npr")
        assert done.returncode == 0, done.stderr
        assert re.search(r"Plan: \d+ to add, 0 to change, 0 to destroy", done.stdout)
        assert "primary_backend_addresses is empty" in sentence(done.stdout)

    def test_an_identity_of_pro_in_the_workspace_of_npr_ends_the_plan_with_a_sentence(self, workspaces: Workspace) -> None:
        assert workspaces.run("workspace", "new", "npr").returncode == 0
        done = self.plan(workspaces, "npr", "NPR", "mi-mazevault-pro")
        assert done.returncode == 1
        assert "managed_identity_name mi-mazevault-pro is an identity of PRO, and gateway_environment is NPR" in sentence(
            done.stderr
        )

    def test_pro_in_the_workspace_of_npr_ends_the_plan_with_a_sentence(self, workspaces: Workspace) -> None:
        assert workspaces.run("workspace", "new", "npr").returncode == 0
        done = self.plan(workspaces, "npr", "PRO", "mi-mazevault-pro")
        assert done.returncode == 1
        assert "terraform workspace select -or-create pro" in sentence(done.stderr)


def sentence(shown: str) -> str:
    """What Terraform shows in a box, in one line."""
    return " ".join(shown.replace("│", " ").split())


def hold_their_tests(place: Workspace) -> None:
    if place.version() < TESTS_SINCE:
        pytest.skip("terraform is older than 1.11, which the tests of the deployment need; the deployment itself needs 1.5")
    place.init()
    done = place.run("test", "-no-color", f"-test-directory={TESTS}")
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"Success! (\d+) passed, 0 failed", done.stdout)
    assert passed and int(passed.group(1)) > 0, done.stdout
