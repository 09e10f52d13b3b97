#!/usr/bin/env bash
# Deploy an image to AWS: deploy/deploy.sh STACK IMAGE [--skip-migrations]
#
# Creates or updates the stack. The migrations run before the service gets the new image. If
# they fail, the service keeps the old one.
set -euo pipefail
stack=$1
image=$2
option=${3:-}
cd "$(dirname "$0")"

update() {
  mapfile -t parameters < <(grep -v '^#' parameters)
  aws cloudformation deploy --stack-name "$stack" --template-file template.yml \
    --capabilities CAPABILITY_IAM --no-fail-on-empty-changeset \
    --parameter-overrides "${parameters[@]}" "$@"
}

if aws cloudformation describe-stacks --stack-name "$stack" > /dev/null 2>&1; then
  # CloudFormation would reset the number of tasks that autoscaling has chosen.
  count=$(aws ecs describe-services --cluster "$(./output.sh "$stack" Cluster)" \
    --services "$(./output.sh "$stack" Service)" \
    --query 'services[0].desiredCount' --output text)
  echo "Updating the migration task"
  update "MigrationImage=$image" "DesiredCount=$count"
else
  count=0
  echo "Creating the stack without tasks; this takes about 15 minutes"
  update "MigrationImage=$image" "Image=$image" "DesiredCount=0"
fi

if [ "$option" != --skip-migrations ]; then
  echo "Migrating the database"
  ./run.sh "$stack" --migrate
fi

echo "Updating the service"
update "Image=$image" "DesiredCount=$((count > 2 ? count : 2))"
