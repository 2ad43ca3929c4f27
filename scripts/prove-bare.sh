#!/bin/sh
# prove-bare.sh [TARGET...] - runs make targets in a fresh minimal Debian 12, where nothing but make is installed before.
#
# As root. Makes the system with debootstrap in a temporary directory, copies what git has of the tree there, binds /proc
# and /dev, runs `make TARGET` for each, and removes everything. Needs Debian's package servers, as `apt-get` has them.
set -eu
[ "$(id -u)" = 0 ] || { echo "prove-bare.sh needs root (debootstrap and mounts)" >&2; exit 1; }
top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
[ $# -gt 0 ] || set -- all
command -v debootstrap >/dev/null || sh "$top/scripts/deps.sh" prove

root=$(mktemp -d "${TMPDIR:-/var/tmp}/berth-bare.XXXXXX")
chmod 755 "$root" # it becomes somebody's /, which every user must be able to enter
cleanup() {
    status=$?
    for place in dev/pts dev/shm dev proc sys; do
        mountpoint -q "$root/$place" && umount -l "$root/$place"
    done
    # never remove through a mount that did not come off
    if grep -q " $root/" /proc/self/mounts; then
        echo "something is still mounted below $root; it stays" >&2
    else
        rm -rf --one-file-system "$root"
    fi
    exit $status
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

# the mirror of this machine's own sources, if it tells one
mirror=$(awk '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /^https?:/) { print $i; exit } }
    $1 == "URIs:" { print $2; exit }' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -n 1)
echo "== a bare Debian 12 in $root" >&2
debootstrap --variant=minbase bookworm "$root" ${mirror:+"$mirror"} >"$root.log" 2>&1 || {
    tail -n 20 "$root.log" >&2
    rm -f "$root.log"
    exit 1
}
rm -f "$root.log"
rm -f "$root/etc/apt/sources.list"
for file in /etc/apt/apt.conf.d /etc/apt/sources.list /etc/apt/sources.list.d /etc/apt/trusted.gpg.d /etc/apt/keyrings \
    /etc/resolv.conf /etc/hosts /etc/ssl/certs /usr/local/share/ca-certificates; do
    # how this machine reaches its package servers; nothing else comes along
    [ ! -e "$file" ] || { mkdir -p "$root${file%/*}"; cp -aL "$file" "$root${file%/*}/" 2>/dev/null || true; }
done
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --make-rslave "$root/dev"
mount -t sysfs -o ro sysfs "$root/sys" 2>/dev/null || true

mkdir -p "$root/berth"
(cd "$top" && git ls-files -z --cached --others --exclude-standard |
    tar --null --ignore-failed-read -T - -cf - 2>/dev/null) | tar -C "$root/berth" -xf -

inside() {
    chroot "$root" /usr/bin/env -i HOME=/root TERM="${TERM:-dumb}" LC_ALL=C.UTF-8 \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin ${CI:+CI="$CI"} \
        ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} "$@"
}
inside sh -c 'apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends make' \
    >/dev/null
for target; do
    echo "== make $target" >&2
    inside make -C /berth "$target"
done
echo "== proved in a bare Debian 12: make $*" >&2
