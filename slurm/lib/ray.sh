# shellcheck shell=bash
# A Ray cluster over the allocation: its own port, temporary folders, CPUs and GPUs. Sourced by job.sh.

# Needs check_nodes. Sets RAY_ADDRESS once every node has joined; fails with the reason after MEL_RAY_S.
start_ray() {
    local address port others
    read -r _ _ address port _ < <(grep "^$HEAD " "$LOG_DIR/nodes")
    export MEL_RAY_HEAD=$address:$port
    say "starting Ray: the head on $HEAD, $MEL_RAY_HEAD"
    hold_ray "$HEAD" head & RAY_STEPS+=($!)
    await_ray "$HEAD"
    others=$(list "${NODES[@]:1}")
    if [[ -n $others ]]; then
        hold_ray "$others" worker & RAY_STEPS+=($!)
        await_ray "${NODES[@]}"
    fi
    export RAY_ADDRESS=$MEL_RAY_HEAD
}

# hold_ray NODES ROLE: runs Ray there until $LOG_DIR/ray-end is written; signals its end to the batch script.
hold_ray() {
    trap '' USR1 USR2
    trap 'kill "$CHILD"' TERM # killed, see end_ray
    on "$1" --kill-on-bad-exit=1
    run_child "${LAUNCH[@]}" "$MEL_PYTHON" -m slurm.lib.ray_node "$2" >>"$LOG_DIR/ray.log" 2>&1
    kill -USR1 "$$" # lost_ray
}

# await_ray NODES...: waits until these have joined
await_ray() {
    local node joined=() status=0
    for node in "$@"; do joined+=("$(awk -v n="$node" '$1 == n {print n "=" $3}' "$LOG_DIR/nodes")"); done
    on "$HEAD"
    run_child timeout --kill-after=10 $((MEL_RAY_S + 10)) "${LAUNCH[@]}" "$MEL_PYTHON" -m slurm.lib.wait_for_ray \
        "$MEL_RAY_HEAD" "$MEL_RAY_S" "${joined[@]}" || status=$?
    ((status)) || return 0
    requeue_if_asked
    for node in "$@"; do
        [[ -s $LOG_DIR/ray-$node.log ]] && tail -n 5 "$LOG_DIR/ray-$node.log" | sed "s/^/$node: /" >&2
    done
    fail "Ray did not start on all of $* (logs: $LOG_DIR)"
}

lost_ray() {
    ((ENDING)) || say "error: a node's Ray has ended (logs: $LOG_DIR)" >&2
    [[ -z $CHILD ]] || kill "$CHILD" 2>/dev/null
}

# Never by `ray stop`: it ends every Ray of this user on the node, also another job's. A signal to srun kills at once,
# so that Ray could not clean up: it comes last. Never by `wait`: bash may lose a child that ends while a trap begins.
end_ray() {
    ((ENDING == 0 && ${#RAY_STEPS[@]})) || return 0
    ENDING=1
    local deadline=$((SECONDS + (CANCELLED ? 5 : 30))) # Slurm's KillWait is 30 s
    touch "$LOG_DIR/ray-end"
    while kill -0 "${RAY_STEPS[@]}" 2>/dev/null && ((SECONDS < deadline)); do sleep 0.2; done
    kill "${RAY_STEPS[@]}" 2>/dev/null
    RAY_STEPS=()
}
