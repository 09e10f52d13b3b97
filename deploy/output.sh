#!/usr/bin/env bash
# Print an output of the stack: deploy/output.sh STACK NAME
set -euo pipefail
aws cloudformation describe-stacks --stack-name "$1" --output text \
  --query "Stacks[0].Outputs[?OutputKey=='$2'].OutputValue"
