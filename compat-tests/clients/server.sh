# For the scripts of clients: a server of their own. Needs TLOG_SERVER_BIN; gives $work (a directory that is removed at
# the end) and, after start_server, $server (process id), $kafka, $tlog and $admin (addresses).
# shellcheck shell=bash

set -eu -o pipefail
unset $(env | sed -n 's/^\(TLOG_[A-Z_]*\)=.*/\1/p' | grep -v -e '^TLOG_SERVER_BIN$' -e '^TLOG_TEST_') || true

work=$(mktemp -d "${TMPDIR:-/tmp}/tlog-client-XXXXXX")
server=""
kafka_port=0
tlog_port=0
admin_port=0

finish() {
    local code=$?
    if [ -n "$server" ]; then
        kill -9 "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    if [ "$code" -ne 0 ] && [ "$code" -ne 77 ] && [ -f "$work/log" ]; then
        echo "log of the server:"
        tail -n 60 "$work/log"
    fi
    rm -rf "$work"
    exit "$code"
}
trap finish EXIT

# start_server [OPTION...]: on the ports of the last start, if there was one.
start_server() {
    : >"$work/log"
    env -u TLOG_SERVER_BIN -u TLOG_TEST_PYTHON -u TLOG_TEST_LONG \
        "$TLOG_SERVER_BIN" -config= -data-dir "$work/data" -kafka-address "localhost:$kafka_port" \
        -address "127.0.0.1:$tlog_port" -admin-address "127.0.0.1:$admin_port" "$@" 2>>"$work/log" &
    server=$!
    local tries=0
    until grep -q ' ready$' "$work/log"; do
        if grep -q 'Kafka clients are not served by this build' "$work/log"; then
            echo "this build does not serve these clients yet"
            exit 77
        fi
        kill -0 "$server" 2>/dev/null || { echo "the server ended"; exit 1; }
        tries=$((tries + 1))
        [ "$tries" -lt 600 ] || { echo "the server is not ready after 30 s"; exit 1; }
        sleep 0.05
    done
    kafka=$(sed -n 's/.* listening kafka .* advertised //p' "$work/log" | head -n 1)
    tlog=$(sed -n 's/.* listening tlog //p' "$work/log" | head -n 1)
    admin=$(sed -n 's/.* listening admin //p' "$work/log" | head -n 1)
    kafka_port=${kafka##*:}
    [ -z "$tlog" ] || tlog_port=${tlog##*:}
    admin_port=${admin##*:}
}

# As a power cut for the process: nothing of it runs on.
kill_server() {
    kill -9 "$server"
    wait "$server" 2>/dev/null || true
    server=""
}
