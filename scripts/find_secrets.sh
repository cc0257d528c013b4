#!/usr/bin/env bash
# find_secrets.sh BIN: fails if a tracked file seems to hold a secret. What is left out, and why:
#   tests          their passwords and tokens are made up
#   requirements   hashes of packages
#   revision =     profiles pin checkpoints to commits
#   ://USER:...    addresses in documents that show the form
#   SecretStr:     names of types
set -euo pipefail
bin=$1
git ls-files -z -- . ':!tests' ':!requirements*.txt' ':!*/label-studio-requirements.txt' ':!*.json' ':!*.png' ':!*.safetensors' |
  xargs -0 "$bin/detect-secrets-hook" --exclude-lines '^\s*revision = |://(USER|user):(PASSWORD|password)@|SecretStr: ' --
