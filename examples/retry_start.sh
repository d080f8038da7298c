#!/bin/sh
# Starts localq, and starts it again for as long as it ends with 3: its store cannot be used yet, since
# a disk is not mounted or a folder is not made.
#
#     examples/retry_start.sh tasks -p 4
#
# Between two starts it waits for 1, 2, 4 and so on up to 60 seconds. Any other exit status is passed on.
# SIGTERM, SIGINT (as SIGTERM, which means the same) and SIGHUP are passed on to localq, so this can be
# what a container or a service runs.
set -u
set -m 2>/dev/null # a Ctrl-C on a terminal comes here only; otherwise localq would hear it twice

child='' stopping='' signalled=''

pass_on() {
    signalled=yes
    [ -z "$child" ] || kill -s "$1" "$child" 2>/dev/null
}
trap 'stopping=yes; pass_on TERM' TERM INT # what runs in the background may be deaf to SIGINT
trap 'pass_on HUP' HUP

# Runs a command in the background, since the shell hears no signal while it waits for one in the
# foreground; its exit status is in $status.
run() {
    "$@" &
    child=$!
    [ -z "$stopping" ] || kill -s TERM "$child" # told to stop just before that
    status=127
    while :; do
        signalled=''
        wait "$child"
        ended=$?
        [ "$ended" -eq 127 ] || status=$ended # 127: the last turn got it already
        [ -n "$signalled" ] || break          # else a signal has ended the wait, and maybe nothing else
    done
    child=''
}

delay=1
while [ -z "$stopping" ]; do
    run localq "$@"
    [ "$status" -eq 3 ] || exit "$status"
    [ -z "$stopping" ] || break
    echo "localq cannot use its store yet; it is started again in $delay s" >&2
    run sleep "$delay"
    delay=$((delay < 30 ? delay * 2 : 60))
done
exit 0 # told to stop while nothing ran
