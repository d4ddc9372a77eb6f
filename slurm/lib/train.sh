# shellcheck shell=bash
# Training: checks, Ray, the trainer, and what its exit code means. Sourced by job.sh.

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
    if ! MEL_RUN_DIR=$RUN_DIR check_nodes; then
        ((ATTEMPT)) || fail "these nodes are not fit to train on"
        requeue # a run that was under way: others may be
    fi
    ((STOPPING)) && requeue
    start_ray
    ((STOPPING)) && requeue
    on "$HEAD"
    run_child "${LAUNCH[@]}" "$MEL_PYTHON" -m openrlhf_mel.train --config "$config" --mel.run_dir "$RUN_DIR" --ckpt.load_enable \
        "$@" || status=$?
    end_ray
    conclude "$status"
}

# The folder and the configuration that the flags ask for. Each variant has a folder of its own: two in one are refused.
read_flags() {
    local flag value algorithm='' plain='' seed=''
    config=$1 RUN_DIR=''
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

# A stop file of an attempt that is over is removed; one that a user or a running job wrote is heeded.
clear_stop() {
    local file=$RUN_DIR/stop by
    [[ -e $file ]] || return 0
    by=$(<"$file")
    if [[ -z $by ]]; then
        say "stopped by $file, which no job has written: remove it to go on"
        exit "$STOPPED"
    fi
    [[ $by == "$JOB" || -z $(squeue --noheader --states=RUNNING --jobs="$by" 2>/dev/null) ]] ||
        fail "job $by is running in $RUN_DIR, and about to stop"
    rm -f "$file"
}

# At its time limit, that is, in spite of having been asked to stop: no one else wants this job to end.
timed_out() { ((STOPPING)) && [[ $(scontrol --oneliner show job "$SLURM_JOB_ID") == *Reason=TimeLimit* ]]; }

# conclude STATUS: what the trainer's end means for the job
conclude() {
    # srun's 0 is not enough: it also stands for a node that Slurm gave up
    if (($1 == 0)) && has_finished; then
        say "finished: $RUN_DIR"
    elif ((CANCELLED)) && ! timed_out; then
        exit 143 # whoever cancelled or preempted the job decides what follows
    elif ((STOPPING)); then
        requeue
    elif (($1 == STOPPED)); then
        say "stopped by $RUN_DIR/stop, which this job has not written: it stays stopped; submit again to go on"
        exit "$STOPPED"
    elif (($1 == 2)); then
        fail "training was refused, see above"
    elif ! MEL_RUN_DIR=$RUN_DIR check_nodes; then
        say "training ended with exit code $1, and a node is not fit any more"
        requeue
    else
        fail "training ended with exit code $1; its log: $RUN_DIR/logs/train.log"
    fi
}
