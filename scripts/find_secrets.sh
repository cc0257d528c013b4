#!/usr/bin/env bash
# find_secrets.sh BIN: fails if a tracked file seems to hold a secret. What is left out, and why:
#   tests          their passwords and tokens are made up
#   requirements   hashes of packages
#   revision =     profiles and adapters pin checkpoints to commits
#   ::test_        names of tests
#   ://USER:...    addresses in documents that show the form
#   SecretStr:     names of types
set -euo pipefail
bin=$1
git ls-files -z -- . ':!tests' ':!requirements*.txt' ':!*/label-studio-requirements.txt' ':!*.json' ':!*.png' ':!*.safetensors' |
  xargs -0 "$bin/detect-secrets-hook" --exclude-lines '^\s*(tokenizer_)?revision(: str)? = |::test_|://(USER|user):(PASSWORD|password)@|SecretStr: ' --
