# shellcheck shell=bash
# Stop between two steps, and requeue. Sourced by job.sh.

watch_signals() {
    trap 'STOPPING=1; ask_to_stop "the time is nearly up, or the job is preempted"' USR2 # --signal=B:USR2@...
    trap 'CANCELLED=1; ask_to_stop "terminated by Slurm"' TERM                           # scancel, preemption
    trap lost_ray USR1
    trap end_ray EXIT
}

# The trainer looks for the file between two steps. Before the run starts there is nothing to save.
ask_to_stop() {
    say "$1: asking to stop"
    if [[ -n $RUN_DIR && -f $RUN_DIR/manifest.json ]]; then
        [[ -e $RUN_DIR/stop ]] || echo "$JOB" >"$RUN_DIR/stop" # see clear_stop
    elif [[ -n $CHILD ]]; then
        kill "$CHILD" 2>/dev/null
    fi
}

# run_child COMMAND...: runs it in the background, because bash handles signals only between commands; returns its exit
# code.
run_child() {
    local status
    "$@" &
    CHILD=$!
    # `wait` returns early after each trap
    while wait "$CHILD"; status=$?; ((status > 128)) && kill -0 "$CHILD" 2>/dev/null; do :; done
    CHILD=''
    return "$status"
}

# RECORD: Slurm's record of this job; in an array of this element, because the plain id may mean the whole array. Slurm sends
# SIGTERM to every process of the script, so to scontrol as well: if a signal ends it, it is run again.
ask_slurm() {
    local status
    while RECORD=$(scontrol --oneliner show job "$JOB"); status=$?; ((status > 128)); do :; done
}

# True at the time limit, which ends a job that has not stopped in time: nobody else wants it to end.
timed_out() {
    ((STOPPING)) || return 1
    ask_slurm
    [[ $RECORD == *Reason=TimeLimit* ]]
}

# True in a partition's grace time: the steps got SIGTERM (SIGNALING while Slurm sends it), and this script continues.
# In other states the job is cancelled, or already requeued by Slurm. A job that was suspended does not count: that is
# also a preemption, whose time stays set when the job runs again.
preempted() {
    ask_slurm
    [[ $RECORD =~ JobState=(RUNNING|SIGNALING)\ .*\ PreemptTime=[0-9] && $RECORD == *" SuspendTime=None "* ]]
}

# Slurm itself does so when a node is lost; no step can start any more, and so no node can be checked.
put_back() {
    ask_slurm
    [[ $RECORD == *" JobState=PENDING "* ]]
}

# Somebody else has ended this job, and decides what follows.
is_cancelled() { ((CANCELLED)) && ! timed_out && ! preempted; }

# Called before a failure is reported: the job's time may simply be over, or Slurm has lost one of its nodes.
requeue_if_asked() { ! { ((STOPPING)) || preempted || put_back; } || requeue; }

# running_elsewhere ID: true if that is another running job.
running_elsewhere() {
    [[ -n $1 && $1 != "$JOB" && -n $(squeue --noheader --states=RUNNING,SUSPENDED --jobs="$1" 2>/dev/null) ]]
}

# Requeues the job and excludes BAD. Slurm may kill this script right after the requeue, so the exclusion is not
# certain.
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
        before=$(tr ' ' '\n' <"$left_out" | sort -u | xargs) # the same node may come again, see above
        (($(wc -w <<<"$before") < MOST_LEFT_OUT)) ||
            fail "not requeued: $before were left out before, now ${BAD[*]}: it may not be the nodes"
        echo "${BAD[*]}" >>"$left_out"
    fi
    say "back into the queue (restart $((ATTEMPT + 1)) of at most $MEL_MAX_REQUEUES)"
    end_ray
    trap '' TERM # the requeue sends it, to scontrol as well
    scontrol requeue "$JOB" || put_back ||
        fail "scontrol requeue $JOB was refused; submit again by hand: the run goes on where it was"
    [[ -z $avoid ]] || if scontrol update jobid="$JOB" excnodelist="$avoid"; then say "without $avoid from now on"; fi
    exit "$STOPPED"
}

# BAD and earlier exclusions. None when the nodes were chosen by name, or all of several are bad: then they are not the
# cause.
nodes_to_avoid() {
    local before
    ((${#BAD[@]} && (${#BAD[@]} < ${#NODES[@]} || ${#NODES[@]} == 1))) || return 0
    ask_slurm
    before=$(sed -nE 's/.* ReqNodeList=\(null\) ExcNodeList=(\S+).*/\1/p' <<<"$RECORD")
    [[ -z $before ]] || list "${BAD[@]}" "${before//(null)/}" | sed 's/,$//'
}
