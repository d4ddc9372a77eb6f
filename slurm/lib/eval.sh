# shellcheck shell=bash
# Evaluation: one element of a job array, or the whole of it without an array. Sourced by job.sh.

# evaluate [FLAG...]: see evaluate.py. Each sample is kept when it arrives, so a stop loses only the current one.
evaluate() {
    local status=0
    begin_job
    if ! check_nodes; then
        requeue_if_asked
        fail "this node is not fit to evaluate on"
    fi
    ((STOPPING)) && requeue
    on "$HEAD"
    run_child "${LAUNCH[@]}" "$MEL_PYTHON" -m slurm.lib.evaluate "$@" || status=$?
    ((status)) || { say "finished"; return; }
    is_cancelled && exit 143
    requeue_if_asked
    fail "the evaluation ended with exit code $status"
}
