#!/usr/bin/env bash
# kcat (librdkafka): what was acknowledged is there after kill -9, in order, with each compression.
. "$(dirname "${BASH_SOURCE[0]}")/../server.sh"

count=1000
[ -z "${TLOG_TEST_LONG:-}" ] || count=200000

start_server
for codec in none gzip snappy lz4 zstd; do
    topic=kcat-$codec
    seq 1 "$count" | sed "s/^/$codec record /" >"$work/$codec.in"
    kcat -b "$kafka" -P -t "$topic" -p 0 -z "$codec" -X acks=all -X enable.idempotence=true <"$work/$codec.in"
done
kill_server
start_server
for codec in none gzip snappy lz4 zstd; do
    kcat -b "$kafka" -C -t "kcat-$codec" -p 0 -o beginning -e -q >"$work/$codec.out"
    cmp "$work/$codec.in" "$work/$codec.out"
    echo "$codec: $count records"
done
kcat -b "$kafka" -L | grep 'topic "kcat-zstd"'
