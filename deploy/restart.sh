#!/usr/bin/env bash
# Replace all tasks, so that they read the secrets again: deploy/restart.sh STACK
set -euo pipefail
stack=$1
cd "$(dirname "$0")"
cluster=$(./output.sh "$stack" Cluster)
service=$(./output.sh "$stack" Service)
aws ecs update-service --cluster "$cluster" --service "$service" --force-new-deployment \
  --query 'service.status' --output text
aws ecs wait services-stable --cluster "$cluster" --services "$service"
