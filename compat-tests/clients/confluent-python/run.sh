#!/usr/bin/env bash
# confluent-kafka for Python, pinned in requirements.txt.
. "$(dirname "${BASH_SOURCE[0]}")/../server.sh"

start_server
"$TLOG_TEST_PYTHON" "$(dirname "${BASH_SOURCE[0]}")/check.py" "$kafka" "$work/data"
