# shellcheck shell=bash
# Is every node fit to run on? Sourced by job.sh.

# check_nodes [trains]: runs check_node.py on each node, within MEL_CHECK_S. Prints the errors node by node; returns 1
# when there are any. BAD gets the unfit nodes; SHARED becomes 1 for an error that no single node causes and others
# would show too. Writes one line per node to $LOG_DIR/nodes: NAME ok ADDRESS PORT VERSIONS, or NAME bad REASON, or NAME
# shared REASON.
check_nodes() {
    local found=$LOG_DIR/nodes answers node status address port versions common='' code=0
    local -A at=()
    BAD=() SHARED=0
    if ! echo "$JOB.$ATTEMPT" >"$LOG_DIR/mark"; then # a shared file system shows it to every node
        say "error: $LOG_DIR cannot be written on $HEAD" >&2
        if ((${#NODES[@]} == 1)); then SHARED=1; else BAD=("$HEAD"); fi # a full disk, or this node's mount is broken
        return 1
    fi
    MEL_NODE_ADDRESSES=$(scontrol --oneliner show node "$SLURM_JOB_NODELIST" |
        sed -nE 's/^NodeName=(\S+) .*NodeAddr=(\S+) .*/\1=\2/p')
    export MEL_NODE_ADDRESSES MEL_LOG_DIR=$LOG_DIR MEL_MARK=$JOB.$ATTEMPT MEL_NODES=${#NODES[@]} MEL_TRAINS=${1:-}
    on "$(list "${NODES[@]}")"
    answers=$(timeout --kill-after=10 "$MEL_CHECK_S" "${LAUNCH[@]}" "$MEL_PYTHON" -m slurm.lib.check_node 2>"$found.err") || code=$?
    echo "$answers" >"$found"
    while read -r _ node status; do say "warning: node $node: $status"; done < <(grep '^warning ' <<<"$answers")
    for node in "${NODES[@]}"; do
        read -r _ status address port versions < <(grep "^$node " <<<"$answers") || status=
        if [[ $status == shared ]]; then
            say "error: node $node: $address $port $versions" >&2
            SHARED=1
            continue
        elif [[ $status == bad ]]; then
            say "error: node $node: $address $port $versions" >&2
        elif [[ $status != ok ]]; then
            if ((code == 124 || code == 137)); then
                say "error: node $node: no answer within $MEL_CHECK_S s from $MEL_PYTHON there (see $found.err)" >&2
            else
                say "error: node $node: no answer from $MEL_PYTHON there; srun's exit code is $code (see $found.err)" >&2
            fi
            tail -n 3 "$found.err" >&2
        elif [[ -n ${at[$address]:-} ]]; then
            say "error: nodes ${at[$address]} and $node: both are $address; set MEL_INTERFACE to the network between them" >&2
            SHARED=1
            continue
        elif [[ -n $common && $versions != "$common" ]]; then
            say "error: node $node: has $versions, but $HEAD has $common" >&2
        else
            common=$versions at[$address]=$node
            continue
        fi
        BAD+=("$node")
    done
    ((!SHARED && ${#BAD[@]} == 0)) || return 1
    say "all nodes are fit: $common"
}
