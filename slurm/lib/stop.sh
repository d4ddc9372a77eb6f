# shellcheck shell=bash
# Stopping between two steps, and coming back. Sourced by job.sh.

watch_signals() {
    trap 'STOPPING=1; ask_to_stop "the time is nearly up, or the job is preempted"' USR2 # --signal=B:USR2@...
    trap 'CANCELLED=1; ask_to_stop "terminated by Slurm"' TERM                           # scancel, preemption
    trap lost_ray USR1
    trap end_ray EXIT
}

# The trainer looks for the file between two steps. Before the run has begun there is nothing to save.
ask_to_stop() {
    say "$1: asking to stop"
    if [[ -n $RUN_DIR && -f $RUN_DIR/manifest.json ]]; then
        [[ -e $RUN_DIR/stop ]] || echo "$JOB" >"$RUN_DIR/stop" # see clear_stop
    elif [[ -n $CHILD ]]; then
        kill "$CHILD" 2>/dev/null
    fi
}

# run_child COMMAND...: runs it in the background, since bash heeds signals only between commands; its exit code.
run_child() {
    local status
    "$@" &
    CHILD=$!
    # `wait` returns early whenever a trap has run
    while wait "$CHILD"; status=$?; ((status > 128)) && kill -0 "$CHILD" 2>/dev/null; do :; done
    CHILD=''
    return "$status"
}

# Puts the job back into the queue, and away from BAD. Slurm may kill this script at once: the latter is not certain.
requeue() {
    ((ATTEMPT < MEL_MAX_REQUEUES)) || fail "not requeued: this was restart $ATTEMPT, and MEL_MAX_REQUEUES=$MEL_MAX_REQUEUES"
    say "back into the queue (restart $((ATTEMPT + 1)) of at most $MEL_MAX_REQUEUES)"
    local avoid
    avoid=$(nodes_to_avoid)
    end_ray
    trap '' TERM # which comes with the requeue, to scontrol as well
    scontrol requeue "$JOB" || fail "scontrol requeue $JOB was refused; submit again by hand: the run goes on where it was"
    [[ -z $avoid ]] || if scontrol update jobid="$JOB" excnodelist="$avoid"; then say "without $avoid from now on"; fi
    exit "$STOPPED"
}

# BAD and what was excluded before. None when the nodes were chosen by name, or all of several are bad: it is not they then.
nodes_to_avoid() {
    local before
    ((${#BAD[@]} && (${#BAD[@]} < ${#NODES[@]} || ${#NODES[@]} == 1))) || return 0
    before=$(scontrol --oneliner show job "$SLURM_JOB_ID" | sed -nE 's/.* ReqNodeList=\(null\) ExcNodeList=(\S+).*/\1/p')
    [[ -z $before ]] || list "${BAD[@]}" "${before//(null)/}" | sed 's/,$//'
}
