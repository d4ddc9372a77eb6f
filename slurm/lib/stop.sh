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

# RECORD: what Slurm knows of this job: of this element, where the plain id may mean the whole array. Slurm sends SIGTERM to
# every process of the script, to scontrol as well: whatever a signal has ended is asked again.
ask_slurm() {
    local status
    while RECORD=$(scontrol --oneliner show job "$JOB"); status=$?; ((status > 128)); do :; done
}

# At its time limit, that is, in spite of having been asked to stop: no one else wants this job to end.
timed_out() {
    ((STOPPING)) || return 1
    ask_slurm
    [[ $RECORD == *Reason=TimeLimit* ]]
}

# In a partition's grace time: the steps got SIGTERM (SIGNALING while Slurm is at it), this script goes on. In other states
# the job is cancelled, or put back by Slurm already. Nor ever suspended: that is a preemption as well, whose time stays
# when the job runs again.
preempted() {
    ask_slurm
    [[ $RECORD =~ JobState=(RUNNING|SIGNALING)\ .*\ PreemptTime=[0-9] && $RECORD == *" SuspendTime=None "* ]]
}

# Slurm itself does so when a node is lost; no step can start any more, and so no node can be checked.
put_back() {
    ask_slurm
    [[ $RECORD == *" JobState=PENDING "* ]]
}

# Somebody has ended this job, and decides what follows.
is_cancelled() { ((CANCELLED)) && ! timed_out && ! preempted; }

# Before anything is called a failure: it may be no more than the end of the job's time here, or the loss of a node.
requeue_if_asked() { ! { ((STOPPING)) || preempted || put_back; } || requeue; }

# running_elsewhere ID: is that a job, another than this?
running_elsewhere() {
    [[ -n $1 && $1 != "$JOB" && -n $(squeue --noheader --states=RUNNING,SUSPENDED --jobs="$1" 2>/dev/null) ]]
}

# Puts the job back into the queue, and away from BAD. Slurm may kill this script at once: the latter is not certain.
requeue() {
    if put_back; then
        say "Slurm has put the job back into the queue"
        exit "$STOPPED"
    fi
    ((ATTEMPT < MEL_MAX_REQUEUES)) || fail "not requeued: this was restart $ATTEMPT, and MEL_MAX_REQUEUES=$MEL_MAX_REQUEUES"
    local avoid before left_out=${LOG_DIR%/*}/left-out
    avoid=$(nodes_to_avoid)
    if [[ -n $avoid ]]; then
        touch "$left_out"
        before=$(tr ' ' '\n' <"$left_out" | sort -u | xargs) # the same may come again, see above
        (($(wc -w <<<"$before") < MOST_LEFT_OUT)) ||
            fail "not requeued: $before were left out before, now ${BAD[*]}: it may not be the nodes"
        echo "${BAD[*]}" >>"$left_out"
    fi
    say "back into the queue (restart $((ATTEMPT + 1)) of at most $MEL_MAX_REQUEUES)"
    end_ray
    trap '' TERM # which comes with the requeue, to scontrol as well
    scontrol requeue "$JOB" || put_back ||
        fail "scontrol requeue $JOB was refused; submit again by hand: the run goes on where it was"
    [[ -z $avoid ]] || if scontrol update jobid="$JOB" excnodelist="$avoid"; then say "without $avoid from now on"; fi
    exit "$STOPPED"
}

# BAD and what was excluded before. None when the nodes were chosen by name, or all of several are bad: it is not they then.
nodes_to_avoid() {
    local before
    ((${#BAD[@]} && (${#BAD[@]} < ${#NODES[@]} || ${#NODES[@]} == 1))) || return 0
    ask_slurm
    before=$(sed -nE 's/.* ReqNodeList=\(null\) ExcNodeList=(\S+).*/\1/p' <<<"$RECORD")
    [[ -z $before ]] || list "${BAD[@]}" "${before//(null)/}" | sed 's/,$//'
}
