#!/bin/sh
# Starts workers for every module and package named "tasks" in a folder and below it, from there:
#
#     examples/discover_tasks.sh [FOLDER] [OPTION OF localq]...
#     examples/discover_tasks.sh ~/shop -p 4 -Q mail
#
# `localq --discover` does this without a shell, and looks anew whenever the workers are replaced.
# Take this script where other names are to be found, or other folders left out.
set -eu

case "${1:-}" in
    "" | -*) ;;
    *)
        cd -- "$1"
        shift
        ;;
esac

# ./shop/tasks.py and ./shop/tasks/__init__.py both become shop.tasks; what cannot be a name goes.
modules=$(
    find . \( -name '.?*' -o -name node_modules -o -name __pycache__ \) -prune \
        -o -type d -exec test -e '{}/pyvenv.cfg' \; -prune \
        -o -type f \( -path '*/tasks.py' -o -path '*/tasks/__init__.py' \) -print |
        sed -e 's|^\./||' -e 's|/__init__\.py$||' -e 's|\.py$||' |
        grep -E '^[[:alpha:]_][[:alnum:]_]*(/[[:alpha:]_][[:alnum:]_]*)*$' |
        tr / . | sort
)
if [ -z "$modules" ]; then
    echo "no module or package named tasks in $PWD or below it" >&2
    exit 2
fi

echo "found:" $modules >&2
exec localq $modules "$@" # the shell becomes localq: signals reach it, and its exit status is the script's
