# shellcheck shell=bash
# The site's settings, and how a command is run there. Sourced by job.sh.

# Reads slurm/site.env (or $MEL_SITE). Exports everything that it sets: sbatch reads some of it, a job's steps the rest.
read_site() {
    local file=${MEL_SITE:-slurm/site.env} strict=$-
    [[ -z ${MEL_SITE:-} || -f $file ]] || fail "MEL_SITE=$file: no such file"
    set -a +eu # `module` and its like are not written for -e and -u
    # shellcheck source=slurm/site.env.example
    [[ ! -f $file ]] || . "$file"
    set +a -u
    [[ $strict != *e* ]] || set -e
    # shellcheck disable=SC2034
    PREFLIGHT_FLAGS=(${MEL_GPU:+--gpu "$MEL_GPU"} ${MEL_GPU_MEMORY_GB:+--gpu-memory-gb "$MEL_GPU_MEMORY_GB"}
        ${MEL_NODE_MEMORY_GB:+--node-memory-gb "$MEL_NODE_MEMORY_GB"})
}

# For a job: the site's settings, and defaults for all others. They are exported, because steps read them. Not for use
# where jobs are submitted: exported there, the defaults would be passed on and count as the user's choice.
load_site() {
    read_site
    export MEL_PYTHON=${MEL_PYTHON:-$PWD/.venv/bin/python}
    export MEL_TMP=${MEL_TMP:-$(node_disk)}
    export MEL_MIN_FREE_GB=${MEL_MIN_FREE_GB:-20}
    export MEL_RUN_FREE_GB=${MEL_RUN_FREE_GB:-$MEL_MIN_FREE_GB}
    export MEL_CHECK_S=${MEL_CHECK_S:-180}
    export MEL_RAY_S=${MEL_RAY_S:-300}
    export MEL_MAX_REQUEUES=${MEL_MAX_REQUEUES:-20}
    if [[ -n ${MEL_INTERFACE:-} ]]; then
        export NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-$MEL_INTERFACE} GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-$MEL_INTERFACE}
    fi
    export PYTHONUNBUFFERED=1 # log lines appear at once
    private_caches
    load_secrets
}

# Scratch on the node's own disk. TMPDIR may be the login node's, passed on with the job; a path of more than 30
# characters is too long for Ray's sockets (check_node.py).
node_disk() {
    local folder
    for folder in "${SLURM_TMPDIR:-}" "${TMPDIR:-}"; do
        [[ -d $folder && -w $folder ]] && ((${#folder} <= 30)) && echo "$folder" && return
    done
    echo /tmp
}

# Puts the files that torch, Triton, vLLM and FlashInfer compile into the job's folder. A kill during a compilation
# leaves a lock; in the home folder every later start would wait for it.
private_caches() {
    local folder=$MEL_TMP/mel-$SLURM_JOB_ID
    export TORCH_EXTENSIONS_DIR=${TORCH_EXTENSIONS_DIR:-$folder/torch}
    export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$folder/inductor}
    export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$folder/triton}
    export VLLM_CACHE_ROOT=${VLLM_CACHE_ROOT:-$folder/vllm}
    export FLASHINFER_WORKSPACE_BASE=${FLASHINFER_WORKSPACE_BASE:-$folder}
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

# on NODES [SRUN FLAG...]: sets LAUNCH, the prefix that runs a command once on each of NODES (names joined by commas),
# in the site's container if it has one.
on() {
    local list=$1 commas=${1//[^,]/}
    shift
    LAUNCH=(srun --overlap --export=ALL --mpi=none --nodelist="$list" --nodes=$((${#commas} + 1)) --ntasks=$((${#commas} + 1))
        --ntasks-per-node=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --kill-on-bad-exit=0 "$@")
    [[ -n ${MEL_CONTAINER:-} ]] || return 0
    local mounts=()
    container_mounts
    if [[ ${MEL_CONTAINER_RUNTIME:-} == apptainer || $MEL_CONTAINER == *.sif ]]; then
        LAUNCH+=(apptainer exec --bind "$(list "${mounts[@]}")" --pwd "$PWD")
        ((${SLURM_GPUS_ON_NODE:-0} == 0)) || LAUNCH+=(--nv)
        LAUNCH+=("$MEL_CONTAINER")
    else # Pyxis: a mount is FROM:TO, and none has blanks: it makes lines of an fstab of them
        local path pairs=()
        for path in "${mounts[@]}"; do
            [[ $path != *[[:space:]]* ]] || fail "$path: Pyxis cannot mount a path with blanks"
            pairs+=("$path:$path")
        done
        LAUNCH+=(--container-image="$MEL_CONTAINER" --container-workdir="$PWD" --no-container-entrypoint
            --container-mounts="$(list "${pairs[@]}")")
    fi
}

# Sets `mounts`: the project, and the folders outside of it that it uses.
container_mounts() {
    local path more
    mounts=("$PWD" "$MEL_TMP")
    for path in runs prepared; do # links to a larger disk
        [[ ! -L $path ]] || mounts+=("$(realpath "$path")")
    done
    [[ -z ${RUN_DIR:-} || $RUN_DIR == "$PWD"/* ]] || mounts+=("$RUN_DIR")
    mounts+=(${HF_HOME:+"$HF_HOME"})
    for path in "${mounts[@]}"; do
        [[ $path != *,* ]] || fail "$path: a container cannot mount a path with commas"
    done
    IFS=, read -ra more <<<"${MEL_MOUNTS:-}"
    mounts+=("${more[@]}")
}
