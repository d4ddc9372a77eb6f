# shellcheck shell=bash
# What every batch script begins with, from the project's root:
#
#   . slurm/lib/job.sh || exit
#   begin_job
#
# Names in capitals are shared by the files of this folder:
NODES=()           # the job's nodes, by name
BAD=()             # those that the last check found unfit
SHARED=0           # the last check found what is at fault on no one node
HEAD=''            # the first, where the batch script itself runs
JOB=''             # the job's id, of an array the element's
ATTEMPT=0          # restarts so far
LOG_DIR=''         # logs of this attempt
LAUNCH=()          # words before a command, see on()
PREFLIGHT_FLAGS=() # what the site's GPUs and nodes are
RUN_DIR=''         # the run that is trained
RAY_STEPS=()       # what holds Ray
CHILD=''           # the process that is waited for
STOPPING=0         # asked to save and come back
CANCELLED=0        # ended by someone else
RECORD=''          # what Slurm knows of the job, see ask_slurm
ENDING=0           # Ray is being ended
REFUSED=2          # exit codes of the trainer: bad input,
HELD=69            # another process holds the run's folder,
STOPPED=75         # it has found the stop file and saved
MOST_LEFT_OUT=3    # nodes that one job may find unfit and leave out
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

# list NAME...: with commas between
list() { local IFS=,; echo "$*"; }

# In a batch script. submit_experiment.sh, which may be run inside a job, has dropped the id.
if [[ -n ${SLURM_JOB_ID:-} ]]; then
    watch_signals # first: an USR2 would end the script until then
    own_variables
fi
