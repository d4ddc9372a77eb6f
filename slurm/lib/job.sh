# shellcheck shell=bash
# The start of every batch script, run from the project's root:
#
#   . slurm/lib/job.sh || exit
#   begin_job
#
# Names in capitals are shared by the files of this folder:
NODES=()           # the job's nodes, by name
BAD=()             # unfit nodes of the last check
SHARED=0           # 1: the last check failed for a reason that no single node causes
HEAD=''            # the first node, where the batch script itself runs
JOB=''             # the job's id; in an array the element's
ATTEMPT=0          # restarts so far
LOG_DIR=''         # logs of this attempt
LAUNCH=()          # prefix of a command, see on()
PREFLIGHT_FLAGS=() # the site's GPUs and nodes, as flags
RUN_DIR=''         # folder of the training run
RAY_STEPS=()       # processes of the steps that hold Ray
CHILD=''           # the process that the script waits for
STOPPING=0         # 1: asked to save and requeue
CANCELLED=0        # 1: cancelled by someone else
RECORD=''          # Slurm's record of the job, see ask_slurm
ENDING=0           # 1: Ray is being ended
REFUSED=2          # exit codes of the trainer: bad input,
HELD=69            # another process holds the run's folder,
STOPPED=75         # it found the stop file and has saved
MOST_LEFT_OUT=3    # unfit nodes that one job may exclude
set -uo pipefail

say() { printf '[%(%F %T)T] %s\n' -1 "$*"; }

fail() {
    say "error: $*" >&2
    exit 1
}

. slurm/lib/own.sh
. slurm/lib/site.sh
. slurm/lib/nodes.sh
. slurm/lib/ray.sh
. slurm/lib/stop.sh
. slurm/lib/train.sh
. slurm/lib/eval.sh

begin_job() {
    load_site
    LOG_DIR=$PWD/slurm/logs/$SLURM_JOB_NAME-$JOB/$ATTEMPT
    mkdir -p "$LOG_DIR" || fail "$LOG_DIR cannot be written"
    rm -f "$LOG_DIR/ray-end"
    ln -sfn "$ATTEMPT" "${LOG_DIR%/*}/latest"
    mapfile -t NODES < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    HEAD=${NODES[0]}
    say "job $JOB, attempt $((ATTEMPT + 1)), on ${NODES[*]}; logs: $LOG_DIR"
    ((ATTEMPT <= MEL_MAX_REQUEUES)) || fail "restarted $ATTEMPT times, more than MEL_MAX_REQUEUES=$MEL_MAX_REQUEUES"
}

# list NAME...: joined by commas
list() { local IFS=,; echo "$*"; }

# True in a batch script. submit_experiment.sh, which may be run inside a job, has dropped the id.
if [[ -n ${SLURM_JOB_ID:-} ]]; then
    watch_signals # first: until then a USR2 would end the script
    own_variables
fi
