#!/usr/bin/env bash
# Runs on Cloud TPU VMs: from one host to a slice of many, on demand or at the price of spot.
#
#   ./launch/tpu_vm.sh create NAME --accelerator-type=TYPE --zone=ZONE [--spot | --preemptible] [--now]
#   ./launch/tpu_vm.sh setup  NAME [--bucket=BUCKET]   this checkout, its packages, a bucket's folder
#   ./launch/tpu_vm.sh run    NAME --workdir=DIR ...   python -m rrft_jax.main ... on all workers
#   ./launch/tpu_vm.sh logs   NAME [WORKER]            follows the log of one worker, 0 by default
#   ./launch/tpu_vm.sh status NAME                     of the machines, and of the run on each
#   ./launch/tpu_vm.sh delete NAME                     the machines and the request for them
#
#   ./launch/tpu_vm.sh create mine --accelerator-type=v5litepod-16 --zone=us-west4-a --spot
#   ./launch/tpu_vm.sh setup mine --bucket=my-bucket
#   ./launch/tpu_vm.sh run mine --config=configs/grpo.py:model=2b --workdir=bucket/runs/mine \
#       --config.model.path=bucket/Qwen2-VL-2B-Instruct --config.data.path=bucket/dataset
#
# `create` asks for the machines in the queue (queued resources), or with --now at once or not at
# all; --preemptible needs --now. Any other option of gcloud's own `create` is handed on.
#
# `setup` copies the files of this checkout that git doesn't ignore to ~/rrft_jax on every worker
# and installs them there. With --bucket a Cloud Storage bucket is the folder `bucket` in it. A run
# that shall outlive its machines, or has several hosts, keeps its --workdir there: the VMs' own
# disks are neither shared nor kept.
#
# `run` waits for the machines, starts the run on every worker, and prints what they say until it
# ends. The run goes on without it: Ctrl-C only stops watching, and the same command watches again.
# When spot machines are preempted, `run` deletes what is left of them, asks for the same again,
# sets them up and starts the same command, which goes on from its last checkpoint. It never does
# that to machines that work, that are on demand, or that somebody else has deleted.
#
# What `create` and `setup` were asked is noted in ~/.local/state/rrft_jax; on another computer,
# CLOUDSDK_COMPUTE_ZONE says where the machines are. RRFT_POLL is the seconds between two looks.
set -euo pipefail
if ((BASH_VERSINFO[0] < 5)); then
  echo "error: bash $BASH_VERSION: expected 5 or newer (on a Mac: brew install bash)" >&2
  exit 1
fi

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
NOTES=${XDG_STATE_HOME:-$HOME/.local/state}/rrft_jax
POLL=${RRFT_POLL:-20}
TRIES=5 # in a row, before a worker or the cloud counts as out of reach

# What runs on a worker. The status of the run is in run.exit: a run that a signal has ended, as a
# preemption does, has saved itself and left with 0, but isn't done.
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

# What gcloud said, as one line with what to do; $1 is what was being done.
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

# The state of the machine, or of the request for one where there's none yet; MISSING without either.
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
    die "create $name: the queue has spot machines, not preemptible ones; expected --spot, or --now too"
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

install_again() { # machines that have just come up may not take connections yet
  local try=0
  until install; do
    ((++try < TRIES)) || explain setup
    sleep "$POLL"
  done
}

# Waits until the machines are there; those that were preempted are asked for again.
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
          die "run $name: $now, and not known here as spot or preemptible; delete it and create it anew"
        say "preempted: asking for the same again"
        until remove; do # it may be going yet
          ((++try < TRIES)) || explain delete
          sleep "$POLL"
        done
        # --now may find no machines for a while; everything else that goes wrong stays wrong.
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
  # New machines, or restarted ones that have lost their mounts.
  [ -z "$again" ] || install_again
}

run() {
  local fresh=+1 try=0 said=$scratch/said now ended failed
  [[ " $*" == *" --workdir"* ]] || die "run $name: expected --workdir=DIR, by which a run goes on"
  [[ "$*" == *"--workdir=bucket/"* || "$*" == *"--workdir bucket/"* ]] ||
    say "warning: the run's folder is on the machines' own disks; one in bucket/ outlives them"
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
    # Are the machines going? Those that fail first are not those that are taken.
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
    elif ((++try < TRIES)); then # nobody has failed, so somebody wasn't reached, which the run survives
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
