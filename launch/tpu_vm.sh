#!/usr/bin/env bash
# Runs on Cloud TPU VMs: on one host or on a slice of many, on demand or on spot machines.
#
#   ./launch/tpu_vm.sh create NAME --accelerator-type=TYPE --zone=ZONE [--spot | --preemptible] [--now]
#   ./launch/tpu_vm.sh setup  NAME [--bucket=BUCKET]   installs this checkout; mounts a bucket
#   ./launch/tpu_vm.sh run    NAME --workdir=DIR ...   python -m rrft_jax.main ... on all workers
#   ./launch/tpu_vm.sh logs   NAME [WORKER]            follows the log of one worker; default: 0
#   ./launch/tpu_vm.sh status NAME                     shows the machines, and the run on each
#   ./launch/tpu_vm.sh delete NAME                     deletes the machines and the request for them
#
#   ./launch/tpu_vm.sh create mine --accelerator-type=v5litepod-16 --zone=us-west4-a --spot
#   ./launch/tpu_vm.sh setup mine --bucket=my-bucket
#   ./launch/tpu_vm.sh run mine --config=configs/grpo.py:model=2b --workdir=bucket/runs/mine \
#       --config.model.path=bucket/Qwen2-VL-2B-Instruct --config.data.path=bucket/dataset
#
# `create` asks for the machines in the queue (queued resources). With --now it asks for them at
# once, and fails if there are none; --preemptible needs --now. All other options are passed on to
# gcloud's own `create`.
#
# `setup` copies this checkout, without the files that git ignores, to ~/rrft_jax on every worker,
# and installs it there. With --bucket, a Cloud Storage bucket becomes the folder `bucket` in it. The
# disks of the VMs are neither shared nor kept: if a run has several hosts, or must outlive its
# machines, keep its --workdir in the bucket.
#
# `run` waits for the machines, starts the run on every worker, and prints their output until the
# run ends. The run does not depend on `run`: Ctrl-C only stops the printing, and the same command
# prints again. When spot machines are preempted, `run` deletes the rest of them, asks for new ones,
# sets them up, and starts the same command, which goes on from its last checkpoint. It does so
# only to preempted spot machines: not to machines that work, that are on demand, or that somebody
# else has deleted.
#
# The options of `create` and `setup` are noted in ~/.local/state/rrft_jax. On another computer,
# CLOUDSDK_COMPUTE_ZONE names the zone of the machines. RRFT_POLL is the seconds between two polls.
set -euo pipefail
if ((BASH_VERSINFO[0] < 5)); then
  echo "error: bash $BASH_VERSION: expected 5 or newer (on a Mac: brew install bash)" >&2
  exit 1
fi

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
NOTES=${XDG_STATE_HOME:-$HOME/.local/state}/rrft_jax
POLL=${RRFT_POLL:-20}
TRIES=5 # failures in a row after which a worker or the cloud counts as unreachable

# These scripts run on a worker. run.exit holds the status of the run. If a signal ends a run, as in
# a preemption, the run saves itself and exits with 0, but it isn't done: run.exit then says 143.
# shellcheck disable=SC2016 # expanded there, not here
REMOTE_SETUP='
set -euo pipefail
mkdir -p ~/rrft_jax && cd ~/rrft_jax && tar -xzf ~/rrft_jax.tgz
uv=~/.local/bin/uv
PYTHON=$(command -v python3.12) || {
  python3 -m pip install --quiet --user uv && "$uv" python install --quiet 3.12
  PYTHON=$("$uv" python find 3.12)
}
source launch/setup.sh
setup_venv tpu
[ -n "$1" ] || exit 0
if ! command -v gcsfuse > /dev/null; then
  packages=https://packages.cloud.google.com/apt
  key=/usr/share/keyrings/cloud.google.asc
  curl -fsS "$packages/doc/apt-key.gpg" | sudo tee "$key" > /dev/null
  echo "deb [signed-by=$key] $packages gcsfuse-$(lsb_release -cs) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list > /dev/null
  sudo apt-get -qq update && sudo apt-get -qq install -y gcsfuse
fi
mkdir -p bucket
mountpoint -q bucket || gcsfuse --implicit-dirs "$1" bucket'
# shellcheck disable=SC2016
REMOTE_RUN='
cd ~/rrft_jax 2> /dev/null && [ -e .venv/installed-tpu ] || { echo "launch: $HOSTNAME not set up"; exit 1; }
fresh=$1
shift
if ! kill -0 "$(cat run.pid 2> /dev/null)" 2> /dev/null; then
  [ -z "$fresh" ] || rm -f run.exit
  if [ ! -e run.exit ]; then
    : > run.log
    setsid nohup bash -c "
      trap stopped=143 TERM
      .venv/bin/python -m rrft_jax.main \"\$@\"
      status=\$?
      echo \"\${stopped:-\$status}\" > run.exit
    " rrft_jax "$@" < /dev/null >> run.log 2>&1 &
    echo $! > run.pid
  fi
fi
tail -n "${fresh:-20}" -s 0.2 -f --pid="$(cat run.pid)" run.log | sed -u "s/^/[$HOSTNAME] /"
status=$(cat run.exit 2> /dev/null || echo 137)
echo "launch: $HOSTNAME exit $status"
exit "$status"'
# shellcheck disable=SC2016
REMOTE_STATUS='
cd ~/rrft_jax 2> /dev/null || { echo "$HOSTNAME: not set up"; exit; }
if kill -0 "$(cat run.pid 2> /dev/null)" 2> /dev/null; then state=running
elif [ -e run.exit ]; then state="exit $(cat run.exit)"
else state="nothing started"; fi
echo "$HOSTNAME: $state: $(tail -n 1 run.log 2> /dev/null)"'

die() {
  echo "error: $*" >&2
  exit 1
}

say() { echo "$(date +%H:%M:%S) $name: $*" >&2; }

usage() { sed -n '/^# *\.\//,/^#$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

tpus() { gcloud compute tpus "$@" ${zone:+"$zone"} ${project:+"$project"}; }

# Ends with gcloud's error as one line, and with what to do; $1 is the action that failed.
explain() {
  local said worker
  worker=$(grep -om 1 'worker [0-9]* failed' "$errors") || true
  said=$(grep -im 1 '^error' "$errors" || tail -n 1 "$errors")
  said=${worker:+$worker: }${said#*[Rr]: }
  case $said in
    *"o more capacity"*) said+=" (try another --zone, or without --now to wait in the queue)" ;;
    *[Qq]uota*) said+=" (ask for quota in the console, or try another --zone or --accelerator-type)" ;;
    *auth\ login* | *credential*) said+=" (run: gcloud auth login)" ;;
    *\[255\]* | *"onnection timed out"* | *"onnection refused"*) said+=" (is the worker up? see: status $name)" ;;
  esac
  die "$1 $name: ${said:-gcloud failed and said nothing}"
}

note() { mkdir -p "$NOTES" && printf '%s\n' "${@:2}" > "$NOTES/$name.$1"; }

noted() { ! [ -s "$NOTES/$name.$1" ] || cat "$NOTES/$name.$1"; }

# on WORKERS SCRIPT ARGUMENT...: the script on the workers (a number, or all of them at once)
on() {
  local workers=$1 script=$2
  shift 2
  tpus tpu-vm ssh "$name" --worker="$workers" --quiet \
    --command="bash -c $(printf '%q' "$script") rrft_jax $(printf '%q ' "$@")"
}

queued() { tpus queued-resources describe "$name" --format='value(state.state)' 2> "$errors"; }

# Prints the state of the machine, or of its request before there is one; MISSING without either.
state() {
  local try
  for ((try = 1; try <= TRIES; try++)); do
    tpus tpu-vm describe "$name" --format='value(state)' 2> "$errors" && return
    if grep -qi 'not.found' "$errors"; then
      queued && return
      ! grep -qi 'not.found' "$errors" || { echo MISSING && return; }
    fi
    [ "$try" = "$TRIES" ] || sleep "$POLL"
  done
  explain describe
}

request() {
  local option kind=(queued-resources create "$name" --node-id="$name") version=runtime-version
  local type='' runtime='' options=()
  for option in "$@"; do
    case $option in
      --now) kind=(tpu-vm create "$name") version=version ;;
      --zone=* | --project=*) ;; # `tpus` adds them
      --runtime-version=* | --version=*) runtime=${option#*=} ;;
      --accelerator-type=*) type=${option#*=} options+=("$option") ;;
      *) options+=("$option") ;;
    esac
  done
  [ -n "$type" ] || die "create $name: expected --accelerator-type=TYPE, such as v5litepod-8"
  if [ -z "$runtime" ]; then
    case $type in
      v5lite*) runtime=v2-alpha-tpuv5-lite ;;
      v5p*) runtime=v2-alpha-tpuv5 ;;
      v6e*) runtime=v2-alpha-tpuv6e ;;
      *) runtime=tpu-ubuntu2204-base ;;
    esac
  fi
  tpus "${kind[@]}" "${options[@]}" --"$version"="$runtime" 2> "$errors"
}

remove() {
  if queued > /dev/null; then
    tpus queued-resources delete "$name" --force --quiet 2> "$errors"
  else
    tpus tpu-vm delete "$name" --quiet 2> "$errors"
  fi
}

create() {
  [[ " $* " != *" --preemptible "* || " $* " == *" --now "* ]] ||
    die "create $name: --preemptible: the queue has no preemptible machines; expected --spot, or --now too"
  request "$@" || explain create
  note create "$@"
  say "asked for; next: ./launch/tpu_vm.sh setup $name"
}

setup() {
  local bucket=
  case ${1:-} in
    --bucket=?*) bucket=${1#*=} ;;
    ?*) die "setup $name: $1: expected nothing, or --bucket=BUCKET" ;;
  esac
  note setup "${bucket#gs://}"
  install || explain setup
}

install() {
  local archive=$scratch/rrft_jax.tgz
  say "copying and installing, on all workers"
  git -C "$ROOT" ls-files -z --cached --others --exclude-standard --exclude=.venv |
    tar -C "$ROOT" --null -T - -czf "$archive" || die "setup $name: can't pack $ROOT"
  tpus tpu-vm scp "$archive" "$name:rrft_jax.tgz" --worker=all --quiet 2> "$errors" &&
    on all "$REMOTE_SETUP" "$(noted setup)" 2> "$errors"
}

install_again() { # new machines may refuse connections at first
  local try=0
  until install; do
    ((++try < TRIES)) || explain setup
    sleep "$POLL"
  done
}

# Waits until the machines are ready; asks again for those that were preempted.
await() {
  local now before='' again='' try=0 asked
  while true; do
    now=$(state)
    [ "$now" = "$before" ] || [ "$now" = READY ] || say "$now"
    before=$now
    case $now in
      READY) break ;;
      PREEMPTED | TERMINATED | SUSPENDED)
        mapfile -t asked < <(noted create)
        [[ " ${asked[*]} " == *" --spot "* || " ${asked[*]} " == *" --preemptible "* ]] ||
          die "run $name: $now, and not known here as spot or preemptible; delete it, then create it again"
        say "preempted: asking for the same again"
        until remove; do # its deletion may be under way
          ((++try < TRIES)) || explain delete
          sleep "$POLL"
        done
        # With --now there may be no machines for a while. Any other error stays an error.
        until request "${asked[@]}"; do
          grep -qi 'capacity' "$errors" || explain create
          sleep "$POLL"
        done
        ;;
      MISSING) die "run $name: there is no such machine or request; create it first" ;;
      FAILED | STOPPED) die "run $name: $now; see: gcloud compute tpus queued-resources describe $name" ;;
      *) sleep "$POLL" ;;
    esac
    again=yes
  done
  # New machines have nothing installed, and restarted ones have lost their mounts.
  [ -z "$again" ] || install_again
}

run() {
  local fresh=+1 try=0 said=$scratch/said now ended failed
  [[ " $*" == *" --workdir"* ]] || die "run $name: expected --workdir=DIR: a run goes on from this folder"
  [[ "$*" == *"--workdir=bucket/"* || "$*" == *"--workdir bucket/"* ]] ||
    say "warning: --workdir is on the disks of the machines, which are not kept; use a folder in bucket/"
  while true; do
    await
    ended=0
    on all "$REMOTE_RUN" "$fresh" "$@" 2> "$errors" | tee "$said" | sed -u '/^launch: /d' || ended=$?
    failed=$(grep -m 1 '^launch: .* exit [1-9]' "$said") || true
    if [ "$ended" = 0 ] && [ -z "$failed" ]; then
      say "done"
      return
    fi
    cp "$errors" "$scratch/lost"
    # Are the machines being taken away? A worker can fail before the first one is gone.
    for _ in 1 2 3; do
      sleep "$POLL"
      now=$(state)
      [ "$now" = READY ] || break
    done
    if [ "$now" != READY ] || grep -q '^launch: .* exit 143' "$said"; then
      fresh=+1 try=0
    elif grep -q '^launch: .* not set up' "$said"; then
      install_again
    elif [ -n "$failed" ]; then
      die "run $name: ${failed#launch: }; look into: logs $name; the same command then goes on"
    elif ((++try < TRIES)); then # no worker has failed: only the connection did, and the run goes on
      say "lost the connection ($(tail -n 1 "$scratch/lost")): trying again"
      fresh=
    else
      errors=$scratch/lost
      explain run
    fi
  done
}

logs() { on "${1:-0}" 'tail -n 100 -F ~/rrft_jax/run.log' 2> "$errors" || explain logs; }

status() {
  local now
  now=$(state)
  echo "$name: $now"
  [ "$now" != READY ] || on all "$REMOTE_STATUS" 2> "$errors" || explain status
}

delete() {
  remove || explain delete
  rm -f "$NOTES/$name.create" "$NOTES/$name.setup"
  say "deleted"
}

case ${1:-} in
  create | setup | run | logs | status | delete) action=$1 ;;
  -h | --help | help) usage && exit ;;
  *) die "${1:-nothing to do}: expected create, setup, run, logs, status or delete, then a NAME; --help says more" ;;
esac
name=${2:-}
[[ $name =~ ^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$ ]] ||
  die "$action ${name@Q}: expected a NAME of small letters, digits and -, letter first"
shift 2
if [[ $action == delete || $action == status ]] && [ $# -gt 0 ]; then
  die "$action $name: $1: expected one NAME and nothing else"
fi
command -v gcloud > /dev/null ||
  die "gcloud isn't installed; expected the Google Cloud CLI: https://cloud.google.com/sdk/docs/install"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
errors=$scratch/errors
zone='' project=''
if [ "$action" = create ]; then given=("$@"); else mapfile -t given < <(noted create); fi
for option in "${given[@]}"; do
  case $option in
    --zone=*) zone=$option ;;
    --project=*) project=$option ;;
  esac
done
"$action" "$@"
