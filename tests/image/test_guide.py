"""The commands in deploy/README.md, run in order against moto's server.

Docker is a stub. So is the deployment of the stack, which moto doesn't support.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import boto3
import cfnlint.decode
import httpx
import pytest

from config import BASE_DIR

GUIDE = (BASE_DIR / "deploy" / "README.md").read_text()
SECRET = "new value"
REGISTRY = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
# These values are needed only by CloudFormation.
AWS_ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}

DOCKER = """#!/bin/sh
echo "docker $*" >> "$CALLS"
case $* in
  login*) cat > /dev/null ;;
  *"-f deploy/compose.yml"*) test -f deploy/compose.yml ;;
  build*) test -f Dockerfile ;;
esac
"""
# This does what moto doesn't: deploys a stack that only has outputs, logs a line for
# each task, and calls services stable.
AWS = """#!/bin/sh
echo "aws $*" >> "$CALLS"
case $* in
  "cloudformation deploy"*)
    "$REAL_AWS" cloudformation create-stack --stack-name blog \
      --template-body "file://$STACK" || true ;;
  "ecs run-task"*)
    task=$("$REAL_AWS" "$@")
    case $* in *Migration*|*migration*) prefix=migration ;; *) prefix=app ;; esac
    stream=$prefix/app/${task##*/}
    "$REAL_AWS" logs create-log-stream --log-group-name blog --log-stream-name "$stream"
    "$REAL_AWS" logs put-log-events --log-group-name blog --log-stream-name "$stream" \
      --log-events "timestamp=$(date +%s)000,message=The container ran." > /dev/null
    echo "$task" ;;
  "ecs wait services-stable"*) ;;
  # Version 1 of the AWS CLI ignores AWS_ENDPOINT_URL here.
  rds*) exec "$REAL_AWS" --endpoint-url "$AWS_ENDPOINT_URL" "$@" ;;
  *) exec "$REAL_AWS" "$@" ;;
esac
"""


def commands(section: str) -> str:
    """Return the shell commands below a heading, as a script."""
    text = GUIDE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    assert blocks
    return "\n".join(["set -euo pipefail", *blocks])


def template() -> dict[str, Any]:
    return dict(cfnlint.decode.decode(str(BASE_DIR / "deploy/template.yml"))[0])


class Machine:
    """A checkout of the project, in which docker and aws are stubs."""

    def __init__(self, folder: Path) -> None:
        self.checkout = folder / "checkout"
        self.checkout.mkdir()
        shutil.copytree(BASE_DIR / "deploy", self.checkout / "deploy")
        shutil.copy(BASE_DIR / "Dockerfile", self.checkout)
        # A deployment of this checkout may have left them.
        for name in (".env", "parameters"):
            (self.checkout / "deploy" / name).unlink(missing_ok=True)
        self.log = folder / "calls"
        stubs = folder / "bin"
        stubs.mkdir()
        for name, script in {"docker": DOCKER, "aws": AWS, "git": "#!/bin/sh"}.items():
            (stubs / name).write_text(script)
            (stubs / name).chmod(0o755)
        self.environment = {
            "PATH": f"{stubs}:{os.environ['PATH']}",
            "CALLS": str(self.log),
        }

    def run(self, script: str, **environment: str) -> str:
        return subprocess.run(
            ["bash", "-c", script],
            cwd=self.checkout,
            env=self.environment | environment,
            input=f"{SECRET}\n",
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout

    def calls(self, command: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if command in line]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def client(service: str, server: str) -> Any:  # The clients of boto3 have no types.
    return boto3.client(
        service,
        endpoint_url=server,
        region_name="us-east-1",
        **{key.lower(): value for key, value in AWS_ENVIRONMENT.items()},
    )


def create_resources(server: str) -> dict[str, str]:
    """Create resources for the outputs of the stack, and return the outputs."""
    ecs, ec2 = client("ecs", server), client("ec2", server)
    rds, secrets = client("rds", server), client("secretsmanager", server)
    client("logs", server).create_log_group(logGroupName="blog")
    ecs.create_cluster(clusterName="blog")
    for family in ("blog", "blog-migration"):
        ecs.register_task_definition(
            family=family,
            networkMode="awsvpc",
            containerDefinitions=[{"name": "app", "image": "image", "memory": 1024}],
        )
    ecs.create_service(
        cluster="blog", serviceName="blog", taskDefinition="blog", desiredCount=3
    )
    subnets = [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"]]
    group = ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
    rds.create_db_subnet_group(
        DBSubnetGroupName="blog",
        DBSubnetGroupDescription="Private subnets",
        SubnetIds=subnets,
    )
    rds.create_db_instance(
        DBInstanceIdentifier="blog",
        Engine="postgres",
        DBInstanceClass="db.t4g.micro",
        AllocatedStorage=20,
        BackupRetentionPeriod=14,
        DBSubnetGroupName="blog",
        MasterUsername="blog",
        MasterUserPassword="old password",
    )
    app_secret = {"SECRET_KEY": "old key", "SECRET_KEY_PREVIOUS": ""}
    for name, value in {"app": app_secret, "database": {"username": "blog"}}.items():
        secrets.create_secret(Name=name, SecretString=json.dumps(value))
    return {
        "LoadBalancerHost": "blog.us-east-1.elb.amazonaws.com",
        "Cluster": "blog",
        "Service": "blog",
        "TaskDefinition": "blog",
        "MigrationTaskDefinition": "blog-migration",
        "Network": f"awsvpcConfiguration={{subnets=[{subnets[0]}],"
        f"securityGroups=[{group}],assignPublicIp=ENABLED}}",
        "Bucket": "blog",
        "AppSecret": "app",
        "DatabaseSecret": "database",
        "Database": "blog",
        "DatabaseSubnetGroup": "blog",
        "DatabaseSecurityGroup": group,
        "LogGroup": "blog",
    }


def test_docker_host(machine):
    machine.run(commands("One Docker host"))

    assert (machine.checkout / "deploy/.env").exists()
    assert len(machine.calls("docker compose")) == 7
    assert "-f deploy/compose.yml up --detach --build" in machine.calls("docker")[0]


@pytest.fixture
def stack(machine: Machine, s3_server: str) -> str:
    """Return the URL of moto's server."""
    real_aws = shutil.which("aws")
    assert real_aws, "Install awscli"
    task_stops = {"progression": "manual", "times": 1}
    httpx.post(
        f"{s3_server}/moto-api/state-manager/set-transition",
        json={"model_name": "ecs::task", "transition": task_stops},
    ).raise_for_status()
    outputs = create_resources(s3_server)
    assert outputs.keys() == template()["Outputs"].keys()
    stand_in = {
        "Resources": {"Topic": {"Type": "AWS::SNS::Topic"}},
        "Outputs": {name: {"Value": value} for name, value in outputs.items()},
    }
    file = machine.checkout.with_name("stack.json")
    file.write_text(json.dumps(stand_in))
    machine.environment |= AWS_ENVIRONMENT | {
        "AWS_DEFAULT_REGION": "us-east-1",  # for version 1 of the AWS CLI
        "AWS_ENDPOINT_URL": s3_server,
        "REAL_AWS": real_aws,
        "STACK": str(file),
    }
    return s3_server


def test_aws(machine, stack):
    output = machine.run(commands("AWS") + "\ndeploy/rotate-key.sh blog")

    parameters = template()["Parameters"]
    deployments = [
        dict(re.findall(r"(\w+)=(\S+)", call.split("--parameter-overrides")[1]))
        for call in machine.calls("cloudformation deploy")
    ]
    assert all(deployment.keys() <= parameters.keys() for deployment in deployments)
    # The first one creates the stack without tasks, and each rollback has one.
    assert [
        (
            deployment.get("Image", "").rpartition(":")[2],
            deployment.get("MigrationImage", "").rpartition(":")[2],
            deployment["DesiredCount"],
        )
        for deployment in deployments
    ] == [
        *[("1", "1", "0"), ("1", "", "2")],
        *[("", "2", "3"), ("2", "", "3")],
        *[("", "1", "3"), ("1", "", "3")] * 2,
    ]
    assert output.count("The container ran.") == output.count("Exit status: 0") == 5
    for tag in (1, 2):
        assert machine.calls(f"docker build --build-arg VERSION={tag} ")
        assert machine.calls(f"docker push {REGISTRY}/fastapi-blog:{tag}")
    secrets = client("secretsmanager", stack)
    app, database = (
        json.loads(secrets.get_secret_value(SecretId=name)["SecretString"])
        for name in ("app", "database")
    )
    assert app["MAIL_PASSWORD"] == SECRET
    assert app["SECRET_KEY_PREVIOUS"] == "old key"
    assert len(app["SECRET_KEY"]) > 64
    assert len(database["password"]) == 48
