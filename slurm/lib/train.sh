# shellcheck shell=bash
# Training: checks, Ray, the trainer, and what its exit code means. Sourced by job.sh.

# train CONFIG [FLAG...]: flags are the trainer's and win over the file, `--config` and `--mel.run_dir` included.
train() {
    local config=$1 status=0
    shift
    begin_job
    read_flags "$config" "$@"
    mkdir -p "$RUN_DIR" || fail "$RUN_DIR cannot be written"
    rm -f "$RUN_DIR/stop"
    say "run: $RUN_DIR"
    MEL_RUN_DIR=$RUN_DIR check_nodes || fail "these nodes are not fit to train on"
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
    RUN_DIR=$(realpath -m "${RUN_DIR:-runs/$(basename "$config" .yaml)$algorithm$plain$seed}")
}

# conclude STATUS: what the trainer's end means for the job
conclude() {
    # srun's 0 is not enough: it also stands for a node that Slurm gave up
    if (($1 == 0)) && grep -q '"finished": "' "$RUN_DIR/manifest.json"; then
        say "finished: $RUN_DIR"
    elif ((CANCELLED)); then
        exit 143 # whoever cancelled or preempted the job decides what follows
    elif ((STOPPING)); then
        requeue
    elif (($1 == STOPPED)); then
        say "stopped by $RUN_DIR/stop, which this job has not written: it stays stopped; submit again to go on"
        exit "$STOPPED"
    elif ! MEL_RUN_DIR=$RUN_DIR check_nodes; then
        say "training ended with exit code $1, and a node is not fit any more"
        requeue
    else
        fail "training ended with exit code $1; its log: $RUN_DIR/logs/train.log"
    fi
}
