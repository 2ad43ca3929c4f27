#!/bin/sh
# deps.sh SECTION... - install what is missing of those sections of packages.txt.
#
# Prints nothing and asks nobody when all is there. Never starts a service, and leaves the services of what it
# installed switched off: the tests start their own servers, on their own ports.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
list=$here/packages.txt

if ! command -v dpkg-query >/dev/null 2>&1; then
    # not a Debian: the build itself will say what it misses
    exit 0
fi

sections=" $* "
wanted() {
    awk -v sections="$sections" '
        /^# \[/ { gsub(/[][]/, "", $2); on = index(sections, " " $2 " ") > 0; next }
        /^#/ || /^[ \t]*$/ { next }
        on { print }' "$list"
}

installed() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null || true)" = installed ]
}

missing=
old_ifs=$IFS
IFS='
'
for line in $(wanted); do
    IFS=' |'
    found=
    first=
    for name in $line; do
        : "${first:=$name}"
        if installed "$name"; then found=1; break; fi
    done
    IFS='
'
    [ -n "$found" ] || missing="$missing $first"
done
IFS=$old_ifs
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null 2>&1; then
    as_root=sudo
else
    echo "berth needs these Debian packages:$missing" >&2
    echo "They cannot be installed from here: this is not root, and there is no sudo. As root, run:" >&2
    echo "    apt-get update && apt-get install --no-install-recommends$missing" >&2
    exit 1
fi
echo "Installing${as_root:+ with sudo} what is missing:$missing" >&2

# shellcheck disable=SC2016 # expanded by the inner shell
$as_root env DEBIAN_FRONTEND=noninteractive sh -eu -c '
    policy=/usr/sbin/policy-rc.d
    made=
    cleanup() { [ -z "$made" ] || rm -f "$policy"; }
    trap cleanup EXIT
    trap "exit 1" HUP INT TERM
    if [ ! -e "$policy" ]; then
        # the one way that every init system of Debian asks before a package starts its service
        made=1
        printf "#!/bin/sh\nexit 101\n" >"$policy"
        chmod 755 "$policy"
    fi
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    for name in "$@"; do
        for path in $(dpkg-query -L "$name"); do
            case $path in
            */systemd/system/*@.service) ;;
            */systemd/system/*.service)
                if command -v systemctl >/dev/null 2>&1; then
                    systemctl --quiet disable "${path##*/}" 2>/dev/null || true
                fi ;;
            /etc/init.d/*)
                if command -v update-rc.d >/dev/null 2>&1; then
                    update-rc.d "${path##*/}" disable 2>/dev/null || true
                fi ;;
            esac
        done
    done
' deps.sh $missing
