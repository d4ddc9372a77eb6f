# shellcheck shell=bash
# What differs from site to site, and how a command is run there. Sourced by job.sh.

# Reads slurm/site.env (or $MEL_SITE), and gives everything that it leaves out a value. All are exported: steps read them.
load_site() {
    local file=${MEL_SITE:-slurm/site.env} strict=$-
    [[ -z ${MEL_SITE:-} || -f $file ]] || fail "MEL_SITE=$file: no such file"
    set -a +eu # `module` and its like are not written for -e and -u
    # shellcheck source=slurm/site.env.example
    [[ ! -f $file ]] || . "$file"
    set -u
    [[ $strict != *e* ]] || set -e
    MEL_PYTHON=${MEL_PYTHON:-$PWD/.venv/bin/python}
    MEL_TMP=${MEL_TMP:-${SLURM_TMPDIR:-${TMPDIR:-/tmp}}}
    MEL_MIN_FREE_GB=${MEL_MIN_FREE_GB:-20}
    MEL_RUN_FREE_GB=${MEL_RUN_FREE_GB:-$MEL_MIN_FREE_GB}
    MEL_CHECK_S=${MEL_CHECK_S:-180}
    MEL_RAY_S=${MEL_RAY_S:-300}
    MEL_MAX_REQUEUES=${MEL_MAX_REQUEUES:-20}
    set +a
    if [[ -n ${MEL_INTERFACE:-} ]]; then
        export NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-$MEL_INTERFACE} GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-$MEL_INTERFACE}
    fi
    export PYTHONUNBUFFERED=1 # lines of a log as they come
    load_secrets
}

# WANDB_API_KEY, HF_TOKEN and the like come from the environment, or from a file that nobody else can read.
load_secrets() {
    [[ -n ${MEL_SECRETS:-} ]] || return 0
    local mode
    mode=$(stat -L -c %a "$MEL_SECRETS") || fail "MEL_SECRETS=$MEL_SECRETS: no such file"
    [[ $mode == [46]00 ]] || fail "MEL_SECRETS=$MEL_SECRETS: others may read it (mode $mode): chmod 600 $MEL_SECRETS"
    set -a
    # shellcheck source=/dev/null
    . "$MEL_SECRETS"
    set +a
}

# on NODES [SRUN FLAG...]: sets `launch`, the words that run a command once on each of NODES (names with commas between),
# in the site's container where it has one.
on() {
    local list=$1 commas=${1//[^,]/}
    shift
    LAUNCH=(srun --overlap --export=ALL --mpi=none --nodelist="$list" --nodes=$((${#commas} + 1)) --ntasks=$((${#commas} + 1))
        --ntasks-per-node=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --kill-on-bad-exit=0 "$@")
    [[ -n ${MEL_CONTAINER:-} ]] || return 0
    local mounts=$PWD,$MEL_TMP${HF_HOME:+,$HF_HOME}${MEL_MOUNTS:+,$MEL_MOUNTS}
    if [[ ${MEL_CONTAINER_RUNTIME:-} == apptainer || $MEL_CONTAINER == *.sif ]]; then
        LAUNCH+=(apptainer exec --bind "$mounts" --pwd "$PWD")
        ((${SLURM_GPUS_ON_NODE:-0} == 0)) || LAUNCH+=(--nv)
        LAUNCH+=("$MEL_CONTAINER")
    else # Pyxis: a mount is FROM:TO
        local path pairs=()
        for path in ${mounts//,/ }; do pairs+=("$path:$path"); done
        LAUNCH+=(--container-image="$MEL_CONTAINER" --container-workdir="$PWD" --no-container-entrypoint
            --container-mounts="$(list "${pairs[@]}")")
    fi
}
