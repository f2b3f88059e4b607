#!/usr/bin/env bash
# The job preparation: runs on every node before training starts. Gives the node a Python environment, found by the
# job at $AZ_BATCHAI_JOB_TEMP/env, and the data set.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
"$here/../common/prepare-env.sh" "$here/requirements.txt" "$AZ_BATCHAI_JOB_TEMP/env"
"$AZ_BATCHAI_JOB_TEMP/env/bin/python" "$here/make_data.py" "$AZ_BATCHAI_INPUT_DATASET"
