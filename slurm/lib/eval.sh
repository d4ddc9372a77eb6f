# shellcheck shell=bash
# Evaluation: one element of a job array, or the whole of it without an array. Sourced by job.sh.

# evaluate [FLAG...]: see evaluate.py. Samples are kept as they come, so that a stop loses nothing but the one at hand.
evaluate() {
    local status=0
    begin_job
    check_nodes || fail "this node is not fit to evaluate on"
    ((STOPPING)) && requeue
    on "$HEAD"
    run_child "${LAUNCH[@]}" "$MEL_PYTHON" slurm/lib/evaluate.py "$@" || status=$?
    ((status)) || { say "finished"; return; }
    ((CANCELLED)) && ! timed_out && exit 143
    ((STOPPING)) && requeue
    fail "the evaluation ended with exit code $status"
}
