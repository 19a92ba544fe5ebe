#!/bin/sh
# Runs a command that is not trusted in Linux namespaces of its own, without
# privileges, without files of the host but a list of read-only ones, and
# without a network but an optional forward proxy behind a unix socket.
#
#   sh sandbox.sh COMMAND [ARG...]
#   sh -c "$(cat sandbox.sh)" sandbox COMMAND [ARG...]
#
# Everything else is in the environment:
#
#   SANDBOX_SCRATCH  folder of the host, owned by the caller, mode 0700:
#                      bridge.py   (required) the file beside this script
#                      proxy.sock  (optional) the forward proxy; without it
#                                  the command has no network at all
#   SANDBOX_RO       paths of the host to show read-only, one per line,
#                    absolute, without "." or "..". A path that does not
#                    exist is skipped. A path that is a symbolic link becomes
#                    the same link; list its target too. The list must hold
#                    sh, unshare, setpriv, mount, umount and their libraries.
#                    It must hold no unix sockets, which can be connected to,
#                    and as root only what everyone may read is readable.
#   SANDBOX_PYTHON   Python >= 3.10 with ctypes, below one of those paths, but
#                    not below /tmp or /work, which belong to the command
#   SANDBOX_DISK     bytes that /tmp, /work and HOME may hold together
#   SANDBOX_MEM      bytes of address space of each process
#   SANDBOX_NPROC    number of processes and threads
#   SANDBOX_NOFILE   number of open files of each process
#   SANDBOX_PORT     port of the proxy on 127.0.0.1 in the sandbox (3128)
#   SANDBOX_LIFELINE if not empty, the standard input of this script is a pipe,
#                    and the sandbox ends when its other end is closed, so also
#                    when the caller dies
#   SANDBOX_UID      only as root: uid and gid on the host of everything in
#                    the sandbox; must not be in use (2000000000 + pid)
#
# The other variables are the environment of the command (start this script
# with `env -i`). The command gets them without SANDBOX_*, with HOME and PWD
# set, and with the proxy variables where there is a proxy. LD_* variables
# would also act on the tools that build the sandbox: do not pass them.
#
# The command gets the standard output and error of the caller, an empty
# standard input, and no other descriptor. Give it pipes: a file of the host
# could be opened anew below /proc/self/fd, with other rights.
#
# The exit status of the command is passed through, 128 + N after signal N.
# 125: there is no sandbox, and one line on standard error says why. 126, 127:
# the command cannot be run, is not found.
#
# To end a sandbox early, send SIGKILL to the process (or its process group):
# the kernel then ends every process of the sandbox. SIGTERM, SIGINT and SIGHUP
# to the process group work too, SIGTERM to the process alone does not.
#
# How it is built:
#   1. As root, a first mount namespace collects the paths, because only root
#      can reach all of them. Then root is given up for an unused uid.
#   2. `unshare` makes a user namespace with all others in it. Its first
#      process builds the root folder (an ordinary user collects the paths
#      only here), leaves the old root, starts the bridge, and stays as init.
#   3. The command gets a second user namespace in that one, so that it has no
#      power over the first, which owns the mounts and the network. It may not
#      create further user namespaces.

set -u

common='
set -u
fail() { printf "sandbox: %s\n" "$1" >&2; exit 125; }

# /sys exists everywhere, everyone may enter it, and nothing in it is ever
# shown in the sandbox: in our own mount namespace it makes room for the root.
root=/sys/sandbox
'

# Makes the root folder with everything that comes from the host.
build='
umask 022
mount -n -t tmpfs -o size=1m,nr_inodes=4096,mode=755,nosuid,nodev sandbox /sys ||
    fail "cannot mount a tmpfs"
mkdir -p "$root/dev/shm" "$root/etc" "$root/proc" "$root/run" "$root/tmp" "$root/work" ||
    fail "cannot make the root folder"

cat "$SANDBOX_SCRATCH/bridge.py" >"$root/run/bridge.py" || fail "cannot copy bridge.py"
printf "root:x:0:0:root:/:/bin/sh\nsandbox:x:1000:1000::/work/home:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n" >"$root/etc/passwd"
printf "root:x:0:\nsandbox:x:1000:\nnogroup:x:65534:\n" >"$root/etc/group"
printf "127.0.0.1 localhost\n::1 localhost\n" >"$root/etc/hosts"
printf "passwd: files\ngroup: files\nhosts: files\n" >"$root/etc/nsswitch.conf"
: >"$root/etc/resolv.conf"

for name in null zero full random urandom; do
    : >"$root/dev/$name"
    mount -n --bind "/dev/$name" "$root/dev/$name" || fail "cannot bind /dev/$name"
done
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"

# One tmpfs for /tmp and /work, so that one limit holds for both. It comes
# before the paths, because some of them may be below /tmp.
mount -n -t tmpfs -o "size=$SANDBOX_DISK,nr_inodes=$SANDBOX_INODES,mode=755,nosuid,nodev" sandbox "$root/tmp" &&
    mkdir -p "$root/tmp/work/home" && mkdir -m 1777 "$root/tmp/tmp" &&
    chown -R "$SANDBOX_OWNER" "$root/tmp" &&
    mount -n --bind "$root/tmp/work" "$root/work" &&
    mount -n --bind "$root/tmp/tmp" "$root/tmp" || fail "cannot mount /tmp and /work"
mount -n -t tmpfs -o size=16m,nr_inodes=1024,mode=1777,nosuid,nodev,noexec sandbox "$root/dev/shm" ||
    fail "cannot mount /dev/shm"

if [ -n "$SANDBOX_PROXY" ]; then
    : >"$root/run/proxy.sock"
    mount -n -o bind,ro,nosuid,nodev,noexec "$SANDBOX_SCRATCH/proxy.sock" "$root/run/proxy.sock" ||
        mount -n --bind "$SANDBOX_SCRATCH/proxy.sock" "$root/run/proxy.sock" ||
        fail "cannot bind proxy.sock"
fi

# A symbolic link in a folder that is bound already could lead out of $root.
contained() {
    near=${1%/*}
    while [ ! -e "$near" ] && [ ! -L "$near" ]; do near=${near%/*}; done
    case $(cd -P "$near" && pwd -P)/ in
        "$root"/*) ;;
        *) fail "$2 leads through a symbolic link" ;;
    esac
}

# An ordinary user must keep the flags that the mount has on the host, so
# noexec is added where it is needed.
readonly_bind() {
    mount -n -o rbind,ro,nosuid,nodev "$1" "$2" 2>/dev/null && return
    umount -n -l "$2" 2>/dev/null
    mount -n -o rbind,ro,nosuid,nodev,noexec "$1" "$2" || fail "cannot bind $1"
}

newline="
"
set -f
IFS=$newline
for path in $SANDBOX_RO; do
    case $path/ in
        //* | */../* | */./* | /proc/* | /sys/* | /dev/* | [!/]*) fail "$path cannot be shown" ;;
    esac
    [ -L "$path" ] && continue
    to=$root$path
    if [ -d "$path" ]; then
        contained "$to" "$path"
        [ -d "$to" ] || mkdir -p "$to" || fail "cannot make $path"
    elif [ -e "$path" ]; then
        contained "$to" "$path"
        [ -e "$to" ] || { mkdir -p "${to%/*}" && : >"$to"; } || fail "cannot make $path"
    else
        continue
    fi
    readonly_bind "$path" "$to"
done
for path in $SANDBOX_RO; do
    [ -L "$path" ] || continue
    to=$root$path
    contained "$to" "$path"
    [ -e "$to" ] || [ -L "$to" ] ||
        { mkdir -p "${to%/*}" && ln -s "$(readlink "$path")" "$to"; } || fail "cannot make $path"
done
unset IFS
set +f

# A recursive bind makes only its first mount read-only.
while read -r _ _ _ _ at flags _; do
    case $at in "$root"/dev/* | "$root"/run/* | "$root"/tmp | "$root"/work) continue ;; "$root"/*) ;; *) continue ;; esac
    case ,$flags, in *,ro,*) continue ;; esac
    at=$(printf "$(printf %s "$at" | sed "s/%/%%/g")")
    case ,$flags, in *,noexec,*) flags=,noexec ;; *) flags= ;; esac
    mount -n -o "remount,bind,ro,nosuid,nodev$flags" none "$at" || fail "cannot protect $at"
done </proc/self/mountinfo
'

# The way of every process but init into its own user namespace. Its limit of
# user namespaces is lowered while there is the privilege to do it.
enter='
echo 0 >/proc/sys/user/max_user_namespaces || fail "cannot forbid user namespaces"
exec setpriv --no-new-privs --inh-caps=-all --ambient-caps=-all --bounding-set=-all \
    "$SANDBOX_PYTHON" -I -S /run/bridge.py "$@"
'

# The first process of the namespaces.
init='
mount -n --rbind "$root" "$root" &&
    mount -n -o remount,bind,ro,nosuid,nodev none "$root" &&
    cd "$root" || fail "cannot bind the root folder"
mount -n -t proc -o nosuid,nodev,noexec proc proc || fail "cannot mount /proc"
pivot_root . run && cd / && umount -n -l /run || fail "cannot leave the root of the host"

cd /work

if [ -n "$SANDBOX_PROXY" ]; then
    "$SANDBOX_PYTHON" -I -S /run/bridge.py listen "$SANDBOX_PORT" \
        unshare --user --map-user=1000 --map-group=1000 --keep-caps \
        sh -c "$SANDBOX_ENTER" sandbox serve /run/proxy.sock </dev/null >/dev/null ||
        fail "cannot start the bridge"
fi

# In the background, because a shell runs its traps only between commands.
trap "exit 143" TERM
trap "exit 130" INT
trap "exit 129" HUP
unshare --user --map-user=1000 --map-group=1000 --keep-caps \
    sh -c "$SANDBOX_ENTER" sandbox run "$@" </dev/null &
command=$!
if [ -n "$SANDBOX_LIFELINE" ]; then
    # A command in the background would read /dev/null, hence the copy.
    exec 3<&0
    { while read -r _; do :; done; kill -TERM 1; } <&3 &
    exec 3<&-
fi
wait "$command"
exit "$?"
'

eval "$common"

[ "$#" -gt 0 ] || fail "no command"
for name in SCRATCH RO PYTHON DISK MEM NPROC NOFILE; do
    eval "[ -n \"\${SANDBOX_$name:-}\" ]" || fail "SANDBOX_$name is not set"
done
case $SANDBOX_SCRATCH in /*) ;; *) fail "SANDBOX_SCRATCH must be absolute" ;; esac
# The command may rename folders there, before the bridge has loaded Python.
case $SANDBOX_PYTHON in
    /tmp/* | /work/* | [!/]*) fail "SANDBOX_PYTHON must be absolute, and not below /tmp or /work" ;;
esac
for descriptor in 1 2; do
    # A folder would be a way to the files of the host.
    [ -d "/proc/self/fd/$descriptor" ] && fail "the standard output and error must not be folders"
done
SANDBOX_PORT=${SANDBOX_PORT:-3128}
SANDBOX_ENTER=$common$enter
SANDBOX_PATH=${PATH:-/usr/bin:/bin}
SANDBOX_INODES=$((SANDBOX_DISK / 4096 + 4096))
SANDBOX_LIFELINE=${SANDBOX_LIFELINE:-}
SANDBOX_OWNER=0:0
SANDBOX_PROXY=
[ -S "$SANDBOX_SCRATCH/proxy.sock" ] && SANDBOX_PROXY=1
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH SANDBOX_SCRATCH SANDBOX_RO SANDBOX_PYTHON SANDBOX_DISK SANDBOX_MEM SANDBOX_NPROC \
    SANDBOX_NOFILE SANDBOX_PORT SANDBOX_LIFELINE SANDBOX_OWNER SANDBOX_ENTER SANDBOX_PATH \
    SANDBOX_INODES SANDBOX_PROXY

# Where the memory of the machine is used up, the sandbox is what has to go.
echo 1000 >/proc/self/oom_score_adj
cd / || fail "cannot enter /"

# A machine may allow the namespaces and still refuse what they are for
# (AppArmor; containers for /proc), so this tries a mount.
try() {
    "$@" unshare --map-root-user --mount --pid --ipc --uts --net --cgroup --fork \
        mount -n -t proc proc /proc
}
refuse() {
    reason=$(printf %s "$reason" | tr -s "\n\t " " ")
    fail "this machine does not let an ordinary user create namespaces: $reason"
}

if [ "$(id -u)" -ne 0 ]; then
    reason=$(try 2>&1) || refuse
    exec unshare --map-root-user --mount --pid --ipc --uts --net --cgroup --kill-child \
        sh -c "$common$build$init" sandbox "$@"
fi

SANDBOX_UID=${SANDBOX_UID:-$((2000000000 + $$))}
SANDBOX_OWNER=$SANDBOX_UID:$SANDBOX_UID
export SANDBOX_UID
SANDBOX_INIT=$common$init
export SANDBOX_INIT

reason=$(try setpriv --reuid "$SANDBOX_UID" --regid "$SANDBOX_UID" --clear-groups 2>&1) || refuse
# The folder of the socket keeps everyone else out.
[ -z "$SANDBOX_PROXY" ] || chown -h "$SANDBOX_OWNER" "$SANDBOX_SCRATCH/proxy.sock" ||
    fail "cannot give away proxy.sock"
exec unshare --mount sh -c "$common$build"'
exec setpriv --reuid "$SANDBOX_UID" --regid "$SANDBOX_UID" --clear-groups \
    unshare --map-root-user --mount --pid --ipc --uts --net --cgroup --kill-child \
    sh -c "$SANDBOX_INIT" sandbox "$@"' sandbox "$@"
