"""The CloudFormation template and the scripts and files for Docker in deploy/."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import cfnlint.decode
import httpx
import pytest
from botocore.exceptions import ClientError

from config import BASE_DIR, Settings
from main import app

DEPLOY = BASE_DIR / "deploy"
DOCKERFILE = (BASE_DIR / "Dockerfile").read_text()
# Without these, production doesn't start, loses what it stores, or sends no emails.
REQUIRED = {
    *("DATABASE_URL", "DATABASE_PASSWORD", "SECRET_KEY", "FRONTEND_URL"),
    *("S3_BUCKET_NAME", "S3_REGION", "MAIL_SERVER", "MAIL_FROM", "TRUSTED_PROXY_HOPS"),
}


@pytest.fixture(scope="module")
def resources() -> dict[str, Any]:
    template, errors = cfnlint.decode.decode(str(DEPLOY / "template.yml"))
    assert not errors
    return {
        name: resource.get("Properties", {})
        for name, resource in template["Resources"].items()
    }


@pytest.fixture(scope="module")
def container(resources: dict[str, Any]) -> dict[str, Any]:
    definition = resources["TaskDefinition"]["ContainerDefinitions"][0]
    return dict(definition)


def in_dockerfile(pattern: str) -> str:
    """Return the group that the pattern matches in the Dockerfile."""
    match = re.search(pattern, DOCKERFILE, re.MULTILINE)
    assert match
    return match[1]


def names_of(variables: list[dict[str, Any]]) -> set[str]:
    return {variable["Name"] for variable in variables}


def is_secret(name: str) -> bool:
    field = Settings.model_fields[name.lower()]
    return "SecretStr" in str(field.annotation)


def test_template_passes_linter():
    linter = Path(sys.executable).with_name("cfn-lint")

    assert subprocess.run([linter, DEPLOY / "template.yml"]).returncode == 0


class TestTask:
    def test_environment(self, container):
        environment = names_of(container["Environment"])
        secrets = names_of(container["Secrets"])
        settings = {name.upper() for name in Settings.model_fields}

        # uvicorn reads the number of workers.
        assert environment | secrets <= settings | {"WEB_CONCURRENCY"}
        assert environment | secrets >= REQUIRED
        assert all(map(is_secret, secrets))
        # The URL contains no password.
        assert set(filter(is_secret, environment & settings)) == {"DATABASE_URL"}

    def test_migration_has_the_same_variables(self, resources, container):
        migration = resources["MigrationTaskDefinition"]["ContainerDefinitions"][0]

        for kind in ("Environment", "Secrets"):
            for variable in migration[kind]:
                assert variable in container[kind]

    def test_ports_and_paths(self, resources, container):
        port = int(in_dockerfile(r"PORT=(\d+)"))
        group = resources["TargetGroup"]

        assert container["PortMappings"] == [{"ContainerPort": port}]
        assert (
            group["Port"]
            == resources["TaskSecurityGroup"]["SecurityGroupIngress"][0]["FromPort"]
            == port
        )
        assert group["HealthCheckPath"] == app.url_path_for("liveness")
        assert f":{port}{group['HealthCheckPath']}" in str(container["HealthCheck"])

    def test_stops_after_draining(self, resources, container):
        attributes = resources["TargetGroup"]["TargetGroupAttributes"]
        draining = int(attributes[0]["Value"])
        graceful = int(in_dockerfile(r"GRACEFUL_SHUTDOWN=(\d+)"))

        # Emails are tried once more for up to 5 seconds.
        assert container["StopTimeout"] > max(draining, graceful + 5)

    def test_is_confined(self, container):
        assert container["ReadonlyRootFilesystem"]
        assert container["User"] == in_dockerfile(r"^USER (.*)$")
        assert container["MountPoints"][0]["ContainerPath"] in DOCKERFILE


class TestTaskRole:
    @pytest.fixture
    def role(self, resources, s3_server) -> Iterator[dict[str, str]]:
        """Return the environment of a user with the policy of the task role."""
        policy = json.dumps(resources["TaskRole"]["Policies"][0]["PolicyDocument"])
        policy = policy.replace(
            '{"Fn::Sub": "${Bucket.Arn}/profile_pics/*"}',
            '"arn:aws:s3:::avatars/profile_pics/*"',
        )
        policy = policy.replace(
            '{"Fn::GetAtt": ["Bucket", "Arn"]}', '"arn:aws:s3:::avatars"'
        )
        iam = boto3.client("iam", endpoint_url=s3_server, region_name="us-east-2")
        user = f"task-{os.urandom(4).hex()}"
        iam.create_user(UserName=user)
        iam.put_user_policy(UserName=user, PolicyName="s3", PolicyDocument=policy)
        key = iam.create_access_key(UserName=user)["AccessKey"]
        httpx.put(f"{s3_server}/avatars", headers={"x-amz-acl": "public-read"})
        httpx.post(f"{s3_server}/moto-api/reset-auth", content=b"0").raise_for_status()
        yield {
            "S3_BUCKET_NAME": "avatars",
            "S3_ENDPOINT_URL": s3_server,
            "S3_ACCESS_KEY_ID": key["AccessKeyId"],
            "S3_SECRET_ACCESS_KEY": key["SecretAccessKey"],
        }
        httpx.post(f"{s3_server}/moto-api/reset-auth", content=b"inf")

    def test_check_s3(self, role):
        done = subprocess.run(
            [sys.executable, BASE_DIR / "check_s3.py"],
            env=os.environ | role,
            check=False,
            capture_output=True,
            text=True,
        )

        # With access control, moto's server fails for requests without credentials.
        steps = [line.split(":")[0] for line in done.stdout.splitlines()]
        assert [step for step in steps if "public read" not in step] == [
            *("ok      credentials", "ok      put", "ok      delete")
        ]

    def test_other_actions_are_denied(self, role, s3_server):
        client = boto3.client(
            "s3",
            endpoint_url=s3_server,
            aws_access_key_id=role["S3_ACCESS_KEY_ID"],
            aws_secret_access_key=role["S3_SECRET_ACCESS_KEY"],
        )

        with pytest.raises(ClientError, match="AccessDenied"):
            client.put_object(Bucket="avatars", Key="other/file", Body=b"")
        with pytest.raises(ClientError, match="AccessDenied"):
            client.list_buckets()


def test_workflows_only_run_make():
    workflows = [file.read_text() for file in BASE_DIR.glob(".github/workflows/*.yml")]
    makefile = (BASE_DIR / "Makefile").read_text()
    commands = re.findall(r"run: (.*)", "\n".join(workflows))

    assert len(commands) == 2
    for command in commands:
        assert re.search(rf"^{command.removeprefix('make ')}:", makefile, re.MULTILINE)
