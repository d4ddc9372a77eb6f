# shellcheck shell=bash
# Is every node fit to run on? Sourced by job.sh.

# Runs check_node.py on each node, within MEL_CHECK_S. Names what is wrong, node by node; 1 when anything is.
# Leaves a line a node in $LOG_DIR/nodes: NAME ok ADDRESS PORT VERSIONS, or NAME bad REASON.
check_nodes() {
    local found=$LOG_DIR/nodes node status address port versions common='' code=0
    BAD=()
    echo "$JOB.$ATTEMPT" >"$LOG_DIR/mark" # what a shared file system shows to every node
    MEL_NODE_ADDRESSES=$(scontrol --oneliner show node "$SLURM_JOB_NODELIST" |
        sed -nE 's/^NodeName=(\S+) .*NodeAddr=(\S+) .*/\1=\2/p')
    export MEL_NODE_ADDRESSES MEL_LOG_DIR=$LOG_DIR MEL_MARK=$JOB.$ATTEMPT
    on "$(list "${NODES[@]}")"
    timeout --kill-after=10 "$MEL_CHECK_S" "${LAUNCH[@]}" "$MEL_PYTHON" slurm/lib/check_node.py >"$found" 2>"$found.err" || code=$?
    for node in "${NODES[@]}"; do
        read -r _ status address port versions < <(grep "^$node " "$found") || status=
        if [[ $status == bad ]]; then
            say "error: node $node: $address $port $versions" >&2
        elif [[ $status != ok ]]; then
            if ((code == 124 || code == 137)); then
                say "error: node $node: no answer within $MEL_CHECK_S s from $MEL_PYTHON there (see $found.err)" >&2
            else
                say "error: node $node: no answer from $MEL_PYTHON there; srun's exit code is $code (see $found.err)" >&2
            fi
            tail -n 3 "$found.err" >&2
        elif [[ -n $common && $versions != "$common" ]]; then
            say "error: node $node: has $versions, but $HEAD has $common" >&2
        else
            common=$versions
            continue
        fi
        BAD+=("$node")
    done
    ((${#BAD[@]} == 0)) || return 1
    say "all nodes are fit: $common"
}
