# Sourced by up, down, break and mend: where the rehearsal cluster lives, and which processes are its own.

PATH=$PATH:/usr/sbin:/sbin
name=${0##*/}

fail() { echo "$name: error: $1" >&2; exit "${2:-1}"; }

use_directory() {  # use_directory [DIR]: sets $dir; everything of the cluster is in there
  dir=$(realpath -m "${1:-${DITSCALE_SLURM_DIR:-/tmp/ditscale-slurm-$(id -u)}}")
  [ "${#dir}" -le 70 ] || fail "$dir: too long; sockets live in it, and their paths may have 108 characters"
  export SLURM_CONF=$dir/etc/slurm.conf
}

# A process is the cluster's when it carries the cluster's SLURM_CONF: process ids return, this does not.
ours() { tr '\0' '\n' 2>/dev/null <"/proc/$1/environ" | grep -qxF "SLURM_CONF=$SLURM_CONF"; }

daemon_pid() {  # daemon_pid NAME: prints the id of a living daemon of this cluster
  local pid
  pid=$(cat "$dir/pid/$1.pid" 2>/dev/null) && [ -n "$pid" ] && ours "$pid" && echo "$pid"
}

within() {  # within SECONDS COMMAND...: repeats it until it succeeds
  local until=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$until" ] || return 1
    sleep 0.1
  done
}

ready() {  # ready NODE...: each takes jobs
  local node
  for node; do sinfo --noheader --nodes="$node" --partition=main --format=%t | grep -qxE 'idle|mix|alloc' || return 1; done
}

start_node() {
  daemon_pid "slurmd.$1" >/dev/null && return
  mkdir -p "$dir/spool/$1"
  slurmd -N "$1" -f "$SLURM_CONF" </dev/null
}

mend_nodes() {  # mend_nodes NODE...: a node that was down, drained or invalid takes jobs again
  local node
  for node; do
    within 10 sh -c "scontrol show node $node | grep -q Version=" || true
    ready "$node" || scontrol update nodename="$node" state=resume 2>/dev/null || true
  done
  for node; do within 60 ready "$node" || fail "$node does not come up; see $dir/log/slurmd.$node.log"; done
}
