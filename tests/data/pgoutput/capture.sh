#!/usr/bin/env bash
# Captures what a real server's pgoutput says, for the tests of the decoder.
#
#   capture.sh <server URL> [<folder>]
#   capture.sh postgresql://postgres@127.0.0.1:5432/postgres
#
# Needs psql and a throw-away server, version 14 or later, with wal_level=logical and a superuser.
# It makes a database, a slot and an origin, all named walpost_capture, plays scenario.sql in the
# database, and drops all three again. Files go to <folder>, by default <major version>/ beside this
# script, one message body per line, in hexadecimal:
#
#   outbox-text    the outbox table, inserts only, as a relay subscribes to it; protocol 2
#   outbox-binary  the same, values in binary form
#   all-text       every table, every operation; protocol 2
#   all-binary     the same, values in binary form
#   all-proto1     the same as all-text, protocol 1
#
# Values are fixed in the scenario. Positions, transaction ids, object ids and commit times are the
# server's own and differ from run to run; the tests look only at how they relate to each other.
# What the messages say, without those, is told in the .story files beside this script; a change of the
# scenario changes them too.
set -euo pipefail

url=${1:?"usage: capture.sh <server URL> [<folder>]"}
here=$(cd "$(dirname "$0")" && pwd)
name=walpost_capture

# The text form of a timestamp follows these.
export PGTZ=UTC PGDATESTYLE=ISO PGCLIENTENCODING=UTF8
# The server's notices ("does not exist, skipping") would only worry.
export PGOPTIONS="-c client_min_messages=warning"

admin() { psql --no-psqlrc -qAt -v ON_ERROR_STOP=1 -d "$url" "$@"; }
inside() { psql --no-psqlrc -qAt -v ON_ERROR_STOP=1 -d "$inside_url" "$@"; }

# The same server, another database: only the path of the URL changes.
inside_url=$(sed -E 's#^([a-z]+://[^/?]*)(/[^?]*)?#\1/'"$name"'#' <<<"$url")

clean() {
    admin -c "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '$name'" \
        -c "SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin WHERE roname = '$name'" \
        -c "DROP DATABASE IF EXISTS $name" >/dev/null
}

# Peeking leaves the slot where it is, so that every file shows the same stretch of log.
capture() {
    local file=$1 protocol=$2 publication=$3 binary=$4
    inside -c "SELECT encode(data, 'hex') FROM pg_logical_slot_peek_binary_changes('$name', NULL, NULL,
        'proto_version', '$protocol', 'publication_names', '$publication', 'messages', 'true',
        'binary', '$binary')" >"$folder/$file.hex"
    echo "$folder/$file.hex: $(wc -l <"$folder/$file.hex") messages"
}

version=$(admin -c "SHOW server_version_num")
folder=${2:-$here/$((version / 10000))}
mkdir -p "$folder"

clean
trap clean EXIT
# Template and encoding are named, as a server may have been set up with others.
admin -c "CREATE DATABASE $name TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
inside -f "$here/tables.sql"
inside -c "SELECT pg_create_logical_replication_slot('$name', 'pgoutput')" >/dev/null
inside -f "$here/scenario.sql" >/dev/null

capture outbox-text 2 walpost false
capture outbox-binary 2 walpost true
capture all-text 2 everything false
capture all-binary 2 everything true
capture all-proto1 1 everything false
