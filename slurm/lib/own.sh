# shellcheck shell=bash disable=SC2034
# Keeps only those of Slurm's variables that are the job's own. Sourced by job.sh and submit_experiment.sh.

# sbatch passes the submitting shell's environment to the job. When that shell runs inside a job, these variables
# describe the outer job: its memory, GPUs, CPU binding, array. slurmd replaces only those for which it has a value, so
# a variable alone does not show to which job it belongs. For every batch job slurmd sets these:
ALWAYS_OWN=(SLURM_CONF SLURM_CLUSTER_NAME SLURM_SUBMIT_DIR SLURM_SUBMIT_HOST
    SLURM_JOB_ID SLURM_JOBID SLURM_JOB_NAME SLURM_JOB_PARTITION SLURM_JOB_USER SLURM_JOB_UID SLURM_JOB_GID
    SLURM_JOB_NODELIST SLURM_NODELIST SLURM_JOB_NUM_NODES SLURM_NNODES SLURM_NODE_ALIASES
    SLURM_JOB_CPUS_PER_NODE SLURM_CPUS_ON_NODE SLURM_TASKS_PER_NODE
    SLURM_NODEID SLURM_PROCID SLURM_LOCALID SLURM_GTIDS SLURM_TASK_PID)

# keep_variables NAME...: unsets all other SLURM_* and SRUN_*
keep_variables() {
    local name kept=" $* "
    for name in "${!SLURM_@}" "${!SRUN_@}"; do
        [[ $kept == *" $name "* ]] || unset "$name"
    done
}

# Drops another job's variables before anything reads them, and sets JOB and ATTEMPT. Variables that slurmd sets only
# for some jobs are kept if scontrol shows that this is one of them.
own_variables() {
    local record cpus own=("${ALWAYS_OWN[@]}") array=("${!SLURM_ARRAY_@}")
    local of_memory=(SLURM_MEM_PER_NODE SLURM_MEM_PER_CPU) of_gpus=(SLURM_GPUS_ON_NODE SLURM_JOB_GPUS)
    keep_variables "${own[@]}" "${array[@]}" "${of_memory[@]}" "${of_gpus[@]}" SLURM_TMPDIR # scontrol reads some others
    # For an array's last element scontrol shows the whole array.
    record=$(scontrol --oneliner --details show job "$SLURM_JOB_ID" | grep "^JobId=$SLURM_JOB_ID ") ||
        fail "scontrol does not show job $SLURM_JOB_ID, which this one is (its words are above)"
    JOB=$SLURM_JOB_ID ATTEMPT=0
    if [[ $record =~ ^JobId=[0-9]+\ ArrayJobId=([0-9]+)\ ArrayTaskId=([0-9]+)\  ]]; then
        # The id of one element: `scontrol requeue` with its plain id may mean the whole array.
        JOB=${BASH_REMATCH[1]}_${BASH_REMATCH[2]}
        own+=("${array[@]}")
    fi
    [[ ! $record =~ \ MinMemoryNode=[1-9] ]] || own+=(SLURM_MEM_PER_NODE)
    [[ ! $record =~ \ MinMemoryCPU=[1-9] ]] || own+=(SLURM_MEM_PER_CPU)
    [[ ! $record =~ \ (GRES|JOB_GRES|TRES|AllocTRES)=[^\ ]*gpu ]] || own+=("${of_gpus[@]}")
    # A site's prolog may have named it after the job.
    [[ ! ${SLURM_TMPDIR:-} =~ (^|[^0-9])($SLURM_JOB_ID|$JOB)([^0-9]|$) ]] || own+=(SLURM_TMPDIR)
    keep_variables "${own[@]}"
    cpus=${SLURM_CPUS_ON_NODE:-1} # the only task has all of them
    if [[ $record =~ \ CPUs/Task=([0-9]+)\  && $record != *" CpusPerTres="* ]]; then cpus=${BASH_REMATCH[1]}; fi
    export SLURM_CPUS_PER_TASK=$cpus
    if [[ $record =~ \ ReqB:S:C:T=[^\ ]*:([0-9]+)\  ]]; then export SLURM_THREADS_PER_CORE=${BASH_REMATCH[1]}; fi
    [[ $record =~ \ Restarts=([1-9][0-9]*)\  ]] || return 0
    ATTEMPT=${BASH_REMATCH[1]}
    export SLURM_RESTART_COUNT=$ATTEMPT # steps read it
}
