# shellcheck shell=bash
# Training: checks, Ray, the trainer, and the handling of its exit code. Sourced by job.sh.

# train CONFIG [FLAG...]: flags are the trainer's and win over the file, `--config` and `--mel.run_dir` included.
train() {
    local config=$1 status=0
    shift
    begin_job
    read_flags "$config" "$@"
    mkdir -p "$RUN_DIR" || fail "$RUN_DIR cannot be written"
    say "run: $RUN_DIR"
    if has_finished; then
        say "finished already: $RUN_DIR (other settings need another --mel.run_dir)"
        exit 0
    fi
    clear_stop
    claim_run
    check_gpus_given
    if ! MEL_RUN_DIR=$RUN_DIR check_nodes trains; then
        requeue_if_asked
        ((ATTEMPT && !SHARED)) || fail "these nodes are not fit to train on"
        requeue # a started run: other nodes may be fit
    fi
    ((STOPPING)) && requeue
    check_config "$@"
    start_ray
    ((STOPPING)) && requeue
    on "$HEAD"
    run_child "${LAUNCH[@]}" "$MEL_PYTHON" -m openrlhf_mel.train --config "$config" --mel.run_dir "$RUN_DIR" --ckpt.load_enable \
        "$@" || status=$?
    end_ray
    conclude "$status"
}

# The folder and the configuration from the flags. Each variant has a folder of its own: two in one are refused.
read_flags() {
    local flag value algorithm='' plain='' seed=''
    config=$1 RUN_DIR='' RUNTIME=''
    shift
    while (($#)); do
        flag=${1%%=*}
        if [[ $1 == *=* ]]; then value=${1#*=}; else value=${2:-}; fi
        case $flag in
            --config) config=$value ;;
            --mel.run_dir) RUN_DIR=$value ;;
            --mel.algorithm) algorithm=-$value ;;
            --mel.enable) [[ ${value,,} != false ]] || plain=-plain ;;
            --train.seed) seed=-seed$value ;;
            --mel.runtime) RUNTIME=$value ;;
        esac
        shift
    done
    if [[ -z $RUN_DIR ]]; then
        ! grep -qE "^[^#]*\brun_dir[\"']?:" "$config" ||
            fail "$config names a run_dir, which these scripts do not read: pass --mel.run_dir instead"
        RUN_DIR=runs/$(basename "${config%.y*ml}")$algorithm$plain$seed
    fi
    RUN_DIR=$(realpath -m "$RUN_DIR")
}

has_finished() { grep -qs '"finished": "' "$RUN_DIR/manifest.json"; }

# Removes a stop file of an earlier attempt; one by a user or by a running job is obeyed.
clear_stop() {
    local file=$RUN_DIR/stop by
    [[ -e $file ]] || return 0
    by=$(<"$file")
    if [[ -z $by ]]; then
        say "stopped by $file, which no job has written: remove it to go on"
        exit "$STOPPED"
    fi
    ! running_elsewhere "$by" || fail "job $by is running in $RUN_DIR, and about to stop"
    rm -f "$file"
}

# One job at a time, also where the trainer's lock is not visible on other nodes. Of two at once only one creates the
# link.
claim_run() {
    local file=$RUN_DIR/job aside=$RUN_DIR/job.$JOB by=''
    echo "$JOB" >"$aside" || fail "$RUN_DIR cannot be written"
    if ! ln "$aside" "$file" 2>/dev/null; then
        [[ ! -e $file ]] || by=$(<"$file")
        if running_elsewhere "$by"; then
            rm -f "$aside"
            fail "job $by is running in $RUN_DIR: wait for its end, or choose another --mel.run_dir"
        fi
        mv -f "$aside" "$file" || fail "$RUN_DIR cannot be written"
    fi
    rm -f "$aside"
}

# A preset without its header's GPUs, as with --gpus-per-node=0 alone, would train on the CPU or fail late.
check_gpus_given() {
    ((${SLURM_GPUS_ON_NODE:-0} == 0)) || return 0
    local runtime=$RUNTIME
    [[ -n $runtime ]] || runtime=$(sed -nE "s/^[^#]*\bruntime[\"']?: *[\"']?(\w+).*/\1/p" "$config")
    [[ $runtime != cuda && -z ${SLURM_JOB_GPUS:-} ]] ||
        fail "GPUs were asked for, but Slurm has given none on $HEAD: ask with sbatch --gpus-per-node=TYPE:N"
}

# Preflight, on a job's first attempt: a refused configuration costs only seconds of the allocation.
check_config() {
    local status=0 machine=(--mel.runtime cpu)
    ((!ATTEMPT)) && [[ -z ${MEL_SKIP_PREFLIGHT:-} ]] || return 0
    ((${SLURM_GPUS_ON_NODE:-0} == 0)) ||
        machine=("${PREFLIGHT_FLAGS[@]}" --nodes "${#NODES[@]}" --gpus-per-node "$SLURM_GPUS_ON_NODE")
    on "$HEAD"
    run_child "${LAUNCH[@]}" "$MEL_PYTHON" -m openrlhf_mel.preflight --config "$config" "${machine[@]}" \
        --mel.run_dir "$RUN_DIR" --ckpt.load_enable "$@" || status=$?
    ((status)) || return 0
    requeue_if_asked
    ((status == REFUSED)) && fail "preflight refused $config, see above"
    fail "preflight could not run: it ended with exit code $status, see above"
}

# conclude STATUS: acts on the trainer's exit code
conclude() {
    # srun's 0 is not enough: it also returns 0 for a node that Slurm has given up
    if (($1 == 0)) && has_finished; then
        say "finished: $RUN_DIR"
    elif is_cancelled; then
        exit 143
    elif ((STOPPING)); then
        requeue
    elif (($1 == STOPPED)); then
        say "stopped by $RUN_DIR/stop, which this job has not written: it stays stopped; submit again to go on"
        exit "$STOPPED"
    elif (($1 == HELD && ATTEMPT)); then
        say "the last attempt's node still holds the lock of $RUN_DIR"
        requeue
    elif (($1 == REFUSED || $1 == HELD)); then
        fail "training was refused, see above"
    elif preempted; then
        say "training ended with exit code $1: the job is preempted"
        requeue
    elif put_back; then
        say "training ended with exit code $1: the job has lost its nodes"
        requeue
    elif ! MEL_RUN_DIR=$RUN_DIR check_nodes trains; then
        ((!SHARED)) || fail "training ended with exit code $1, and what all nodes share is not fit any more"
        say "training ended with exit code $1, and a node is not fit any more"
        requeue
    else
        fail "training ended with exit code $1; its log: $RUN_DIR/logs/train.log"
    fi
}
