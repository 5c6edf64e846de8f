#!/bin/sh
# usage: restart.sh COMMAND [ARGUMENT]...
# The first process of a container in development. It runs COMMAND and, when that ends, runs it again: Tilt puts a
# new binary in place and stops the old one, whose process id is in $TMPDIR/service.pid. A TERM ends both.
pid_file=${TMPDIR:-/tmp}/service.pid
trap 'kill "$pid"; wait "$pid"; exit' TERM
while :; do
	sh -c 'echo $$ >"$0" && exec "$@"' "$pid_file" "$@" &
	pid=$!
	wait "$pid"
	sleep 1 # a service that cannot start does not fill the log
done
