#!/usr/bin/env bash
# kcat (librdkafka 2.0.2 in Debian): each codec with its bits in the stored batches, what was acknowledged after kill -9,
# headers, nulls, large messages, offsets and timestamps, automatic creation, a message that is too large.
. "$(dirname "${BASH_SOURCE[0]}")/../server.sh"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$TLOG_TEST_PYTHON
count=1000
[ -z "${TLOG_TEST_LONG:-}" ] || count=200000

# same WHAT EXPECTED FOUND
same() {
    [ "$2" = "$3" ] || { printf '%s: expected\n%s\nfound\n%s\n' "$1" "$2" "$3"; exit 1; }
    echo "ok $1"
}

# consume TOPIC ARGUMENT...: all of partition 0 up to its end
consume() {
    local topic=$1
    shift
    kcat -b "$kafka" -C -t "$topic" -p 0 -e -q "$@"
}

start_server
for codec in none gzip snappy lz4 zstd; do
    topic=kcat-$codec
    seq 1 "$count" | sed "s/^/$codec record /" >"$work/$codec.in"
    kcat -b "$kafka" -P -t "$topic" -p 0 -z "$codec" -X acks=all -X enable.idempotence=true <"$work/$codec.in"
    "$python" "$here/../codecs_on_disk.py" "$work/data/$topic-0" "$codec"
done
kill_server
start_server
for codec in none gzip snappy lz4 zstd; do
    consume "kcat-$codec" -o beginning >"$work/$codec.out"
    cmp "$work/$codec.in" "$work/$codec.out"
    "$python" "$here/../codecs_on_disk.py" "$work/data/kcat-$codec-0" "$codec"
    echo "ok $codec: $count records after kill -9"
done
kcat -b "$kafka" -L | grep 'topic "kcat-zstd" with 1 partitions'

# Keys, nulls and headers. -Z makes an empty key or value null; -K: separates the two.
printf 'k1:v1\n:no key\nno value:\n' |
    kcat -b "$kafka" -P -t kcat-nulls -p 0 -K: -Z -H a=1 -H b=2 -H a=3 -H empty= -H null
same "nulls and headers in order" \
    '0 2 k1 2 v1 a=1,b=2,a=3,empty=,null=NULL
1 -1  6 no key a=1,b=2,a=3,empty=,null=NULL
2 8 no value -1  a=1,b=2,a=3,empty=,null=NULL' \
    "$(consume kcat-nulls -o beginning -f '%o %K %k %S %s %h\n')"

# By offset: from one, from the end, the last ones.
same "from an offset" "none record 991" "$(consume kcat-none -o 990 -c 1)"
same "the last three" "$(tail -n 3 "$work/none.in")" "$(consume kcat-none -o -3)"
same "at the end" "" "$(consume kcat-none -o end)"

# By time: three records at least 20 ms apart, asked for by the timestamp of the second.
for i in 1 2 3; do
    echo "at $i" | kcat -b "$kafka" -P -t kcat-times -p 0
    sleep 0.02
done
mapfile -t times < <(consume kcat-times -o beginning -f '%T\n')
same "from a timestamp" $'at 2\nat 3' "$(consume kcat-times -o "s@${times[1]}")"
same "between timestamps" "at 2" "$(consume kcat-times -o "s@${times[1]}" -o "e@${times[2]}")"
same "an offset by its time" "kcat-times [0] offset 1" "$(kcat -b "$kafka" -Q -t "kcat-times:0:${times[1]}")"
same "no offset after the last time" "kcat-times [0] offset -1" \
    "$(kcat -b "$kafka" -Q -t "kcat-times:0:$((times[2] + 1000000))")"

# 900 KB, plain and packed; bytes that do not pack.
head -c 900000 /dev/urandom >"$work/large"
for codec in none gzip snappy lz4 zstd; do
    kcat -b "$kafka" -P -t kcat-large -p 0 -z "$codec" "$work/large"
done
[ "$(consume kcat-large -o beginning -f '%S\n' | sort | uniq -c | xargs)" = "5 900000" ]
consume kcat-large -o 4 -c 1 -f %s >"$work/large.out"
cmp "$work/large" "$work/large.out"
echo "ok 900 KB with each codec"

# Larger than the topic takes: the broker's refusal reaches the user.
head -c 1200000 /dev/urandom >"$work/larger"
if kcat -b "$kafka" -P -t kcat-large -p 0 -X message.max.bytes=2000000 "$work/larger" 2>"$work/refused"; then
    echo "a message that is too large was taken" && exit 1
fi
grep -i 'too large' "$work/refused" || { cat "$work/refused"; exit 1; }

# Told what an old broker would say: requests of the versions that follow from it.
for version in 0.11.0.0 1.0.0 2.1.0; do
    old=(-X api.version.request=false -X broker.version.fallback="$version")
    echo "from the time of $version" | kcat -b "$kafka" -P -t kcat-old -p 0 "${old[@]}"
    same "as a client of $version" "from the time of $version" "$(consume kcat-old -o -1 "${old[@]}")"
done

# A consumer that waits is woken by what comes.
kcat -b "$kafka" -C -t kcat-none -p 0 -o end -c 1 -q >"$work/woken" &
waiting=$!
for _ in $(seq 100); do
    echo "woken" | kcat -b "$kafka" -P -t kcat-none -p 0
    kill -0 "$waiting" 2>/dev/null || break
    sleep 0.1
done
wait "$waiting"
same "a long poll" woken "$(cat "$work/woken")"
