#!/usr/bin/env bash
# Change a secret of the app: deploy/set-secret.sh STACK NAME
#
# Asks for the value, or reads a line from standard input. Run restart.sh afterwards, because
# tasks only read secrets when they start.
set -euo pipefail
stack=$1
name=$2
cd "$(dirname "$0")"
read -rsp "New value of $name: " value
secret=$(./output.sh "$stack" AppSecret)
aws secretsmanager get-secret-value --secret-id "$secret" --query SecretString --output text |
  VALUE=$value python3 -c 'import json, os, sys
print(json.dumps(json.load(sys.stdin) | {sys.argv[1]: os.environ["VALUE"]}))' "$name" |
  aws secretsmanager put-secret-value --secret-id "$secret" --secret-string file:///dev/stdin \
    --query VersionId --output text
