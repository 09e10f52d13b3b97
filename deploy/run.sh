#!/usr/bin/env bash
# Run a command in a new container on AWS: deploy/run.sh STACK COMMAND...
#
# `deploy/run.sh STACK --migrate` runs the migrations of the newest image instead. Prints the
# log of the container, and fails if the command fails.
set -euo pipefail
stack=$1
shift
cd "$(dirname "$0")"

if [ "$1" = --migrate ]; then
  definition=MigrationTaskDefinition prefix=migration overrides='{}'
else
  definition=TaskDefinition prefix=app
  overrides=$(python3 -c 'import json, sys; print(json.dumps(
    {"containerOverrides": [{"name": "app", "command": sys.argv[1:]}]}))' "$@")
fi
cluster=$(./output.sh "$stack" Cluster)
task=$(aws ecs run-task --cluster "$cluster" --launch-type FARGATE \
  --task-definition "$(./output.sh "$stack" "$definition")" \
  --network-configuration "$(./output.sh "$stack" Network)" \
  --overrides "$overrides" --query 'tasks[0].taskArn' --output text)
echo "Started $task; waiting for it to stop"
aws ecs wait tasks-stopped --cluster "$cluster" --tasks "$task"
aws logs get-log-events --log-group-name "$(./output.sh "$stack" LogGroup)" \
  --log-stream-name "$prefix/app/${task##*/}" --start-from-head \
  --query 'events[].[message]' --output text
status=$(aws ecs describe-tasks --cluster "$cluster" --tasks "$task" \
  --query 'tasks[0].containers[0].exitCode' --output text)
echo "Exit status: $status"
[ "$status" = 0 ]
