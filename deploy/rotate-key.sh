#!/usr/bin/env bash
# Replace SECRET_KEY without logging anyone out: deploy/rotate-key.sh STACK
set -euo pipefail
stack=$1
cd "$(dirname "$0")"
old=$(aws secretsmanager get-secret-value --secret-id "$(./output.sh "$stack" AppSecret)" \
  --query SecretString --output text | python3 -c 'import json, sys; print(json.load(sys.stdin)["SECRET_KEY"])')
new=$(python3 -c 'import secrets; print(secrets.token_urlsafe(64))')
# While tasks are replaced, old ones must accept tokens that new ones have signed. So make the
# new key known before any task uses it.
./set-secret.sh "$stack" SECRET_KEY_PREVIOUS <<< "$new"
./restart.sh "$stack"
./set-secret.sh "$stack" SECRET_KEY_PREVIOUS <<< "$old"
./set-secret.sh "$stack" SECRET_KEY <<< "$new"
./restart.sh "$stack"
